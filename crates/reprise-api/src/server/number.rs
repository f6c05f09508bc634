//! Whole numbers as JSON may spell them. To JSON Schema, and so to clients that are made from the OpenAPI document, `207.0`
//! is an integer; to serde it is none.

use serde_json::Value;

/// The request with its whole numbers spelled as such; none where there is no other spelling to try.
pub(super) fn whole_numbers(body: &[u8]) -> Option<Value> {
    let mut value = serde_json::from_slice(body).ok()?;
    respell(&mut value).then_some(value)
}

/// True if a number was changed.
fn respell(value: &mut Value) -> bool {
    match value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|f| number.is_f64() && f.fract() == 0.0);
            // Above, the nearest float is no number of 64 bits.
            match float.filter(|f| (0.0..u64::MAX as f64).contains(f)) {
                Some(float) => {
                    *value = Value::from(float as u64);
                    true
                }
                None => false,
            }
        }
        Value::Array(items) => items.iter_mut().fold(false, |changed, item| respell(item) | changed),
        Value::Object(fields) => fields.values_mut().fold(false, |changed, field| respell(field) | changed),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{ById, VolumeResize};

    #[test]
    fn a_whole_number_is_one_however_it_is_spelled() {
        for text in ["207.0", "2.07e2", "207.00"] {
            let value = whole_numbers(format!("{{\"id\": {text}}}").as_bytes()).unwrap();
            assert_eq!(serde_json::from_value::<ById>(value).unwrap(), ById { id: 207 });
        }
        let value = whole_numbers(br#"{"name": "v", "size": 4096.0}"#).unwrap();
        assert_eq!(serde_json::from_value::<VolumeResize>(value).unwrap().size.bytes(), 4096);
        for text in ["207", "207.5", "-1.0", "1e30", "\"207.0\"", "18446744073709551616.0"] {
            assert_eq!(whole_numbers(format!("{{\"id\": {text}}}").as_bytes()), None, "{text}");
        }
        assert_eq!(whole_numbers(b"{"), None);
    }
}
