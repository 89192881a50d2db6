//! One number that several processes count up, each increment under its lock.
//!
//! `cargo run --example shared_counter`

use multiprocess as mp;
use multiprocess::Value;

fn count(counter: Value<u64>, times: u64) -> Result<u32, String> {
    for _ in 0..times {
        *counter.lock().map_err(|error| error.to_string())? += 1;
    }
    Ok(std::process::id())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The value lies in shared memory; handles to it travel like any other argument.
    let counter = Value::new(0_u64)?;
    let processes = (0..4)
        .map(|_| mp::process(count, (counter.clone(), 10_000)).start())
        .collect::<Result<Vec<_>, _>>()?;
    for process in processes {
        println!("process {} has counted", process.join()??);
    }
    println!("{} in all", counter.get()?);

    // Reading and writing are two steps: without the lock in between, increments of others would get lost.
    counter.update(|n| *n /= 4)?;
    println!("{} each", counter.get()?);
    assert_eq!(counter.get()?, 10_000);
    Ok(())
}

#[test]
fn runs() {
    main().expect("the processes count to 40000");
}
