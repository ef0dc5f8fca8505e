//! Who called whom, and whose time it was.

use std::collections::{BTreeMap, BTreeSet};

use super::jaeger::{Span, Trace};

/// A span in its place in the tree.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// The span.
    pub(super) span: &'a Span,
    /// How deep it stands; 0 for a root.
    pub(super) depth: usize,
    /// For each level above and its own: whether more siblings follow below.
    pub(super) more: Vec<bool>,
    /// Time within it that no span below it covers, in microseconds.
    pub(super) own: u64,
}

/// The spans of a trace, each below the one that it is part of, siblings by their start.
///
/// A span whose parent is not in the trace (such as the client's own, which is never recorded) is a root. So is one whose
/// parents form a ring: a broken trace is shown as it is, and ends.
pub(super) fn tree(trace: &Trace) -> Vec<Node<'_>> {
    let known: BTreeSet<&str> = trace.spans.iter().map(|span| span.id.as_str()).collect();
    let mut children: BTreeMap<Option<&str>, Vec<&Span>> = BTreeMap::new();
    for span in &trace.spans {
        let parent = span.parent.as_deref().filter(|parent| known.contains(parent) && *parent != span.id);
        children.entry(parent).or_default().push(span);
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|span| (span.start, std::cmp::Reverse(span.duration)));
    }
    let mut walk = Walk { children, seen: BTreeSet::new(), nodes: Vec::new() };
    let roots = walk.children.get(&None).cloned().unwrap_or_default();
    walk.visit(&roots, &[]);
    for span in &trace.spans {
        if !walk.seen.contains(span.id.as_str()) {
            walk.visit(&[span], &[]);
        }
    }
    walk.nodes
}

struct Walk<'a> {
    children: BTreeMap<Option<&'a str>, Vec<&'a Span>>,
    seen: BTreeSet<&'a str>,
    nodes: Vec<Node<'a>>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, siblings: &[&'a Span], above: &[bool]) {
        for (index, span) in siblings.iter().enumerate() {
            if !self.seen.insert(span.id.as_str()) {
                continue;
            }
            let children = self.children.get(&Some(span.id.as_str())).cloned().unwrap_or_default();
            let mut more = above.to_vec();
            more.push(index + 1 < siblings.len());
            let own = span.duration - covered(span, &children);
            self.nodes.push(Node { span, depth: above.len(), more: more.clone(), own });
            self.visit(&children, &more);
        }
    }
}

/// How much of a span is covered by spans below it. Those that overlap each other count once; what sticks out of it does
/// not count.
fn covered(span: &Span, children: &[&Span]) -> u64 {
    let mut covered = 0;
    let mut reached = span.start;
    // `children` are sorted by their start.
    for child in children {
        let (start, end) = (child.start.max(reached), child.end().min(span.end()));
        covered += end.saturating_sub(start);
        reached = reached.max(end);
    }
    covered
}

/// The own time of each service, largest first, in microseconds.
pub(super) fn own_time_by_service<'a>(nodes: &[Node<'a>]) -> Vec<(&'a str, u64)> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for node in nodes {
        *sums.entry(&node.span.service).or_default() += node.own;
    }
    let mut sums: Vec<(&str, u64)> = sums.into_iter().collect();
    sums.sort_by_key(|(_, own)| std::cmp::Reverse(*own));
    sums
}
