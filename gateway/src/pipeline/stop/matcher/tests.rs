use proptest::{collection::vec, prelude::*, sample::Index};

use super::{Matcher, Pushed};

/// What the matcher must come to, in the plainest words: the stop string that is complete first; of several that are
/// complete at the same byte, the longest.
fn first_complete<'a>(text: &'a str, stops: &[String]) -> Option<(&'a str, String)> {
    let ends = |stop: &String| text.match_indices(stop.as_str()).map(|(at, _)| at + stop.len()).next();
    let found = stops.iter().filter_map(|stop| ends(stop).map(|end| (end, stop)));
    let (end, stop) = found.min_by_key(|(end, stop)| (*end, usize::MAX - stop.len()))?;
    Some((&text[..end - stop.len()], stop.clone()))
}

/// The text that comes out when a text goes in as these pieces, and the stop string that was met.
fn run(pieces: &[&str], stops: &[String]) -> (String, Option<String>) {
    let mut matcher = Matcher::new(stops);
    let mut out = String::new();
    for piece in pieces {
        match matcher.push((*piece).to_owned(), true) {
            Pushed::Text(text) => out.push_str(&text),
            Pushed::Met { text, stop_string } => return (out + &text, Some(stop_string)),
        }
    }
    (out + &matcher.finish(), None)
}

fn cut<'a>(text: &'a str, cuts: &[Index]) -> Vec<&'a str> {
    let borders: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&borders)).chain([0, text.len()]).collect();
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

proptest! {
    // Few letters, so that stop strings begin, overlap and repeat all the time.
    #[test]
    fn the_outcome_does_not_depend_on_the_cuts(
        text in "[abé]{0,24}",
        stops in vec("[abé]{1,4}", 0..5),
        cuts in vec(any::<Index>(), 0..8),
    ) {
        let expected = match first_complete(&text, &stops) {
            Some((before, stop)) => (before.to_owned(), Some(stop)),
            None => (text.clone(), None),
        };
        prop_assert_eq!(run(&cut(&text, &cuts), &stops), expected);
    }

    #[test]
    fn no_more_is_held_back_than_can_still_become_a_stop_string(text in "[ab]{0,24}", stop in "[ab]{1,6}") {
        let stops = [stop];
        let mut matcher = Matcher::new(&stops);
        let mut out = String::new();
        for (at, letter) in text.char_indices() {
            let Pushed::Text(piece) = matcher.push(letter.to_string(), true) else { return Ok(()) };
            out.push_str(&piece);
            let seen = &text[..=at];
            let open = (0..stops[0].len()).rev().find(|length| seen.ends_with(&stops[0][..*length])).unwrap();
            prop_assert_eq!(seen.len() - out.len(), open);
        }
    }
}

#[test]
fn the_stop_string_that_is_complete_first_wins() {
    assert_eq!(run(&["abcd"], &strings(&["bcd", "c"])), ("ab".to_owned(), Some("c".to_owned())));
    assert_eq!(run(&["abcd"], &strings(&["c", "abc"])), (String::new(), Some("abc".to_owned())));
}

#[test]
fn a_stop_string_that_may_not_stop_yet_is_text_and_may_begin_the_next() {
    let mut matcher = Matcher::new(&strings(&["aa"]));
    assert_eq!(matcher.push("xaa".to_owned(), false), Pushed::Text("xa".to_owned()));
    // The second `a` of the first one is the first of the next.
    let met = Pushed::Met { text: String::new(), stop_string: "aa".to_owned() };
    assert_eq!(matcher.push("a".to_owned(), true), met);
}
