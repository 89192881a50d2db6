//! Arguments are a tuple with one value for each parameter.

fn add(a: u32, b: u32) -> u32 {
    a + b
}

fn main() {
    let _ = multiprocess::process(add, (1u32,));
}
