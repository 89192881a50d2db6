//! Heat spreads in a rod that several processes share: each computes its part, and a barrier keeps them in step.
//!
//! `cargo run --example barrier_phases`

use std::error::Error;
use std::ops::Range;

use multiprocess as mp;
use multiprocess::{Array, Barrier};

const CELLS: usize = 64;
const WORKERS: usize = 4;
const PHASES: usize = 4;
const STEPS: usize = 100;

/// The rod before and after a step, by turns.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Rod {
    halves: [Array<f64>; 2],
    /// Nobody reads a half that is still being written.
    step_done: Barrier,
    phase_done: Barrier,
}

impl Rod {
    /// Hot at the left end, cold everywhere else; both ends keep their temperature.
    fn new(workers: u32) -> mp::shm::Result<Rod> {
        let mut cells = [0.0; CELLS];
        cells[0] = 100.0;
        let halves = [Array::from_slice(&cells)?, Array::from_slice(&cells)?];
        let step_done = Barrier::new(workers)?;
        let phase_done = Barrier::new(workers)?.with_action(report);
        Ok(Rod { halves, step_done, phase_done })
    }
}

/// The last one to arrive runs this before anybody goes on, so the reports of two phases never mix.
fn report() {
    println!("a phase is over, says the last of its workers, process {}", std::process::id());
}

/// A cell after a step, from the three around it before.
fn warmed(left: f64, here: f64, right: f64) -> f64 {
    here + 0.25 * (left - 2.0 * here + right)
}

/// All steps, for some cells.
fn compute(rod: &Rod, cells: Range<usize>) -> mp::shm::Result<()> {
    let inner = cells.start.max(1)..cells.end.min(CELLS - 1);
    for step in 1..=PHASES * STEPS {
        let (before, after) = (&rod.halves[(step - 1) % 2], &rod.halves[step % 2]);
        let before = before.to_vec()?;
        let new: Vec<f64> =
            inner.clone().map(|at| warmed(before[at - 1], before[at], before[at + 1])).collect();
        after.copy_from_slice(inner.start, &new)?;
        // If another worker dies, this is an error for all the others, not a wait for ever.
        rod.step_done.wait()?;
        if step.is_multiple_of(STEPS) {
            rod.phase_done.wait()?;
        }
    }
    Ok(())
}

/// What a worker runs; errors travel home as text.
fn worker(rod: Rod, cells: Range<usize>) -> Result<(), String> {
    compute(&rod, cells).map_err(|error| error.to_string())
}

fn run() -> Result<Vec<f64>, Box<dyn Error>> {
    let rod = Rod::new(WORKERS as u32)?;
    let part = |n: usize| n * CELLS / WORKERS..(n + 1) * CELLS / WORKERS;
    let workers = (0..WORKERS)
        .map(|n| mp::process(worker, (rod.clone(), part(n))).start())
        .collect::<Result<Vec<_>, _>>()?;
    for worker in workers {
        worker.join()??;
    }
    Ok(rod.halves[PHASES * STEPS % 2].to_vec()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let rod = run()?;
    for at in (0..CELLS).step_by(4) {
        println!("cell {at:2} {:6.2} {}", rod[at], "#".repeat((rod[at] / 2.0) as usize));
    }
    assert!(rod.is_sorted_by(|left, right| left >= right), "heat flows from left to right");
    Ok(())
}

#[test]
fn the_workers_compute_what_one_alone_does() {
    let alone = Rod::new(1).expect("shared memory");
    compute(&alone, 0..CELLS).expect("all steps");
    let rod = run().expect("all workers come to an end");
    assert_eq!(rod, alone.halves[PHASES * STEPS % 2].to_vec().expect("the cells"));
    assert!(rod[0] == 100.0 && rod[CELLS - 1] == 0.0 && rod[CELLS / 4] > 1.0);
}
