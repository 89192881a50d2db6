//! Any item as JSON: bytes that are text become text, others `{"$bytes": "hex"}`; keys that are no text become text.

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::fmt;

/// A value of any type.
#[derive(Clone, Debug, PartialEq)]
pub struct Any(pub Value);

impl Serialize for Any {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Any, E> {
        Ok(Any(v.into()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Any, E> {
        Ok(Any(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Any, E> {
        Ok(Any(v.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Any, E> {
        // JSON has no name for what is no number.
        Ok(Any(serde_json::Number::from_f64(v).map_or_else(|| Value::String(v.to_string()), Value::Number)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Any, E> {
        Ok(Any(v.into()))
    }

    fn visit_bytes<E>(self, v: &[u8]) -> Result<Any, E> {
        Ok(Any(match std::str::from_utf8(v) {
            Ok(text) => text.into(),
            Err(_) => {
                let hex = v.iter().map(|b| format!("{b:02x}")).collect::<String>();
                serde_json::json!({ "$bytes": hex })
            }
        }))
    }

    fn visit_unit<E>(self) -> Result<Any, E> {
        Ok(Any(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Any, E> {
        Ok(Any(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Any, D::Error> {
        Any::deserialize(from)
    }

    /// Extension types of msgpack: their number and bytes.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Any, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Any, A::Error> {
        let mut values = Vec::new();
        while let Some(Any(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Any(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Any, A::Error> {
        let mut values = Map::new();
        while let Some((Any(key), Any(value))) = map.next_entry()? {
            let key = match key {
                Value::String(text) => text,
                other => other.to_string(),
            };
            if values.insert(key, value).is_some() {
                return Err(de::Error::custom("two keys are the same as text"));
            }
        }
        Ok(Any(values.into()))
    }
}
