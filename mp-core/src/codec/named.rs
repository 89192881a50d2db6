//! Values whose structs need the names of their fields.
//!
//! For fields of user types: `#[serde(with = "mp_core::codec::named")]`. Structs travel as arrays; serde
//! wants names where a struct variant of an untagged enum is to be recognised. Only encoding differs. Nothing
//! here is shared between processes.
//!
//! ```
//! use mp_core::message::Message;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! #[serde(untagged)]
//! enum Shape {
//!     Circle { radius: f64 },
//!     Box { width: f64, height: f64 },
//! }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Drawing(#[serde(with = "mp_core::codec::named")] Vec<Shape>);
//!
//! # fn main() -> mp_core::Result<()> {
//! let drawing = Drawing(vec![Shape::Box { width: 2.0, height: 3.0 }, Shape::Circle { radius: 1.0 }]);
//! assert_eq!(Message::encode(&drawing)?.decode::<Drawing>()?, drawing);
//! # Ok(())
//! # }
//! ```

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The newtype struct that tells the encoder to write names inside.
pub(super) const MARK: &str = "$mp_core::named";

/// Serialises `value` with the names of all fields.
pub fn serialize<T: Serialize + ?Sized, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(MARK, value)
}

/// Deserialises a value as usual.
pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::deserialize(deserializer)
}
