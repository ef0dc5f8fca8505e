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
    /// Where its parent stands in the list.
    parent: Option<usize>,
    /// Its share of the time of the trace, in microseconds; see [`credit`].
    pub(super) credit: f64,
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
    walk.visit(&roots, &[], None);
    for span in &trace.spans {
        if !walk.seen.contains(span.id.as_str()) {
            walk.visit(&[span], &[], None);
        }
    }
    credit(&mut walk.nodes);
    walk.nodes
}

struct Walk<'a> {
    children: BTreeMap<Option<&'a str>, Vec<&'a Span>>,
    seen: BTreeSet<&'a str>,
    nodes: Vec<Node<'a>>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, siblings: &[&'a Span], above: &[bool], parent: Option<usize>) {
        for (index, span) in siblings.iter().enumerate() {
            if !self.seen.insert(span.id.as_str()) {
                continue;
            }
            let children = self.children.get(&Some(span.id.as_str())).cloned().unwrap_or_default();
            let mut more = above.to_vec();
            more.push(index + 1 < siblings.len());
            self.nodes.push(Node { span, depth: above.len(), more: more.clone(), parent, credit: 0.0 });
            self.visit(&children, &more, Some(self.nodes.len() - 1));
        }
    }
}

/// Divides the time of a trace among its spans, so that the shares add up to the time in which anything ran.
///
/// At each moment the spans without a running span below them are those that matter; they share the moment evenly. A
/// stage that streams beside the model (detokenizing, screening) is open from the first token to the last and mostly
/// waits for the next one: it is given a moment only when nothing else runs.
#[expect(clippy::cast_precision_loss, reason = "shares are shown with three digits")]
fn credit(nodes: &mut [Node<'_>]) {
    let mut borders: Vec<u64> = nodes.iter().flat_map(|node| [node.span.start, node.span.end()]).collect();
    borders.sort_unstable();
    borders.dedup();
    for moment in borders.windows(2) {
        let leaves = running_leaves(nodes, moment[0]);
        let share = (moment[1] - moment[0]) as f64 / leaves.len().max(1) as f64;
        for leaf in leaves {
            nodes[leaf].credit += share;
        }
    }
}

fn running_leaves(nodes: &[Node<'_>], time: u64) -> Vec<usize> {
    let runs = |index: &usize| nodes[*index].span.start <= time && time < nodes[*index].span.end();
    let running: Vec<usize> = (0..nodes.len()).filter(runs).collect();
    // All that stand above, not the next one alone: a parent may have ended before its children did.
    let above: BTreeSet<usize> = running.iter().flat_map(|index| upwards(nodes, *index).skip(1)).collect();
    let leaves = running.into_iter().filter(|index| !above.contains(index));
    let (beside, ahead): (Vec<usize>, Vec<usize>) = leaves.partition(|index| streams_beside(nodes, *index));
    if ahead.is_empty() { beside } else { ahead }
}

/// Whether a span is, or is part of, a call that streams both ways: by Weft's naming these end in `Stream`.
fn streams_beside(nodes: &[Node<'_>], index: usize) -> bool {
    upwards(nodes, index).any(|index| nodes[index].span.name.ends_with("Stream"))
}

/// A span and all that stand above it.
fn upwards(nodes: &[Node<'_>], index: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(index), |index| nodes[*index].parent)
}

/// The credit of each service, largest first, in microseconds.
pub(super) fn by_service<'a>(nodes: &[Node<'a>]) -> Vec<(&'a str, f64)> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for node in nodes {
        *sums.entry(&node.span.service).or_default() += node.credit;
    }
    let mut sums: Vec<(&str, f64)> = sums.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    sums
}
