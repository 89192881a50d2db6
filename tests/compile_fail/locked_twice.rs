//! What has a lock is not given another one (SCT-7).

use multiprocess::{RLock, RawValue, Value, synchronized};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lock = RLock::new()?;
    let _ = synchronized(synchronized(RawValue::new(1)?, &lock), &lock);
    let _ = synchronized(Value::new(1)?, &lock);
    Ok(())
}
