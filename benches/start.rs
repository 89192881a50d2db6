//! How long it takes to start a process and to get its result, by each method.
//!
//! Children start by themselves in benches too. `cargo bench --bench start` measures; any other run only checks.

use std::time::{Duration, Instant};

use multiprocess as mp;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runs = if std::env::args().any(|argument| argument == "--bench") { 200 } else { 3 };
    for method in mp::get_all_start_methods() {
        let context = mp::get_context(method)?;
        let mut times = Vec::new();
        for number in 0..runs {
            let begun = Instant::now();
            let process = context.process(|x: u64| x * x, (number,)).start()?;
            assert_eq!(process.join()?, number * number);
            times.push(begun.elapsed());
        }
        times.sort();
        let median: Duration = times[times.len() / 2];
        println!("{method}: {median:?}");
    }
    Ok(())
}
