//! The handle of a process is of no use elsewhere (PROC-18).

fn main() {
    let process = multiprocess::process(|| (), ()).start().expect("a process");
    let _ = multiprocess::process(|_: multiprocess::Process<()>| (), (process,));
}
