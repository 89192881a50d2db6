//! A closure that captures cannot travel; the error names the way out.

fn main() {
    let factor = 3;
    let _ = multiprocess::process(move |x: i32| factor * x, (14,));
}
