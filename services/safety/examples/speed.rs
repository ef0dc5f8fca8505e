//! How fast the window is: `cargo run --release -p weft-safety --example speed -- TEXT_FILE [POLICY_FILE]`.
//!
//! Screens the file with each policy, whole and in pieces, and prints the best of five runs.

#![expect(clippy::print_stdout, reason = "a report for a terminal")]

use std::{env, fs, sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_runtime::BoxError;
use weft_safety::{Program, policy::Compiler, verdict::Direction, window::Window};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/config/policy.toml");
const RUNS: usize = 5;
/// What the service holds by default, in bytes.
const MAX_HOLD: usize = 16 << 10;

fn main() -> Result<(), BoxError> {
    let mut arguments = env::args().skip(1);
    let text = fs::read_to_string(arguments.next().ok_or("usage: speed TEXT_FILE [POLICY_FILE]")?)?;
    let policy = fs::read_to_string(arguments.next().unwrap_or_else(|| SHIPPED.to_owned()))?;
    let started = Instant::now();
    let policies = Compiler::new(MAX_HOLD)?.compile(&policy)?;
    println!("detectors and policies compiled in {:.0?}", started.elapsed());
    println!("{:<12} {:>12} {:>12} {:>14}", "policy", "piece", "MB/s", "us a piece");
    for policy in policies.list() {
        for piece in [usize::MAX, 64, 4] {
            let program = policy.program(Direction::Completion);
            let (time, pieces) = best(program, &text, piece);
            let rate = text.len() as f64 / time.as_secs_f64() / 1e6;
            let label = if piece == usize::MAX { "whole".to_owned() } else { format!("{piece} bytes") };
            let each = time.as_secs_f64() * 1e6 / pieces as f64;
            println!("{:<12} {label:>12} {rate:>12.1} {each:>14.3}", policy.name);
        }
    }
    Ok(())
}

fn best(program: &Arc<Program>, text: &str, piece: usize) -> (Duration, usize) {
    let pieces: Vec<&str> = cut(text, piece);
    let times = (0..RUNS).map(|_| {
        let started = Instant::now();
        let mut window = Window::new(Arc::clone(program));
        for piece in &pieces {
            std::hint::black_box(window.push(piece));
        }
        std::hint::black_box(window.finish());
        started.elapsed()
    });
    (times.min().unwrap_or_default(), pieces.len())
}

fn cut(mut text: &str, length: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        // A character that is longer than a piece is a piece of its own.
        let end = text.floor_char_boundary(length).max(text.chars().next().map_or(0, char::len_utf8));
        let piece;
        (piece, text) = text.split_at(end);
        pieces.push(piece);
    }
    pieces
}
