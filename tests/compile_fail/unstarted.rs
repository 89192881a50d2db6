//! What is not started cannot be joined (PROC-04).

fn main() {
    let _ = multiprocess::process(|| (), ()).join();
}
