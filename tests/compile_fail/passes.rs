//! Captured values are handed over as arguments.

fn main() {
    let factor = 3;
    let process = multiprocess::process(|factor: i32, x: i32| factor * x, (factor, 14)).start().expect("a process");
    assert_eq!(process.join().expect("a product"), 42);
}
