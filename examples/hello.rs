//! Functions that run in processes of their own, and what becomes of them.
//!
//! `cargo run --example hello`

use multiprocess as mp;

fn greet(name: String) -> String {
    format!("hello {name}, from process {}", std::process::id())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Any function, with its arguments as a tuple. Its result comes back.
    let process = mp::process(greet, ("world".to_owned(),)).name("greeter").start()?;
    println!("{}", process.join()?);

    // Several at once; a closure will do if it captures nothing.
    let squares =
        (1..=4u64).map(|n| mp::process(|x: u64| x * x, (n,)).start()).collect::<Result<Vec<_>, _>>()?;
    for square in squares {
        println!("{} says {}", square.name(), square.join()?);
    }

    // A panic, a crash, a kill: it happens over there, and is told here.
    let process = mp::process(|list: Vec<u32>, index: usize| list[index], (vec![1, 2, 3], 7)).start()?;
    if let Err(error) = process.join() {
        println!("{error}");
    }
    Ok(())
}

#[test]
fn runs() {
    main().expect("every process starts");
}
