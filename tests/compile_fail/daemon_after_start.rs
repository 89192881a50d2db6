//! The daemon flag is frozen by the start (REL-02).

fn main() {
    let process = multiprocess::process(|| (), ()).start().expect("a process");
    process.daemon(true);
}
