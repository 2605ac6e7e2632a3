//! Extended JSON, relaxed or canonical, as BSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, Timestamp, Uuid};
use serde_json::{Map, Value};

/// Converts a value of extended JSON.
pub(super) fn value(json: &Value) -> Result<Bson, String> {
    Ok(match json {
        Value::Null => Bson::Null,
        Value::Bool(flag) => Bson::Boolean(*flag),
        Value::String(text) => Bson::String(text.clone()),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => i32::try_from(whole).map_or(Bson::Int64(whole), Bson::Int32),
            None => Bson::Double(number.as_f64().ok_or("a number out of range")?),
        },
        Value::Array(items) => Bson::Array(items.iter().map(value).collect::<Result<_, _>>()?),
        Value::Object(fields) => match wrapped(fields)? {
            Some(scalar) => scalar,
            None => Bson::Document(
                fields
                    .iter()
                    .map(|(key, json)| Ok((key.clone(), value(json)?)))
                    .collect::<Result<Document, String>>()?,
            ),
        },
    })
}

/// Converts an object of extended JSON. Null gives an empty document.
pub(super) fn document(json: &Value) -> Result<Document, String> {
    match value(json)? {
        Bson::Document(document) => Ok(document),
        Bson::Null => Ok(Document::new()),
        other => Err(format!("no document: {other}")),
    }
}

/// The scalar that an object with a type's key stands for.
fn wrapped(fields: &Map<String, Value>) -> Result<Option<Bson>, String> {
    let Some((key, inner)) = fields.iter().next().filter(|_| fields.len() == 1) else {
        return Ok(None);
    };
    let text = || inner.as_str().ok_or_else(|| format!("{key}: no text"));
    let told = |error: &dyn std::fmt::Display| format!("{key}: {error}");
    let scalar = match key.as_str() {
        "$oid" => Bson::ObjectId(ObjectId::parse_str(text()?).map_err(|error| told(&error))?),
        "$numberInt" => Bson::Int32(parse(text()?)?),
        "$numberLong" => Bson::Int64(parse(text()?)?),
        "$numberDouble" => Bson::Double(parse(text()?)?),
        "$numberDecimal" => Bson::Decimal128(parse(text()?)?),
        "$uuid" => Bson::from(Uuid::parse_str(text()?).map_err(|error| told(&error))?),
        "$date" => Bson::DateTime(match inner {
            Value::String(text) => {
                DateTime::parse_rfc3339_str(text).map_err(|error| told(&error))?
            }
            _ => DateTime::from_millis(parse(inner["$numberLong"].as_str().unwrap_or(""))?),
        }),
        "$timestamp" => Bson::Timestamp(Timestamp {
            time: number(&inner["t"])?,
            increment: number(&inner["i"])?,
        }),
        "$binary" => {
            let subtype = inner["subType"].as_str().unwrap_or("");
            let subtype = u8::from_str_radix(subtype, 16).map_err(|error| told(&error))?;
            let bytes = STANDARD.decode(inner["base64"].as_str().unwrap_or(""));
            Bson::Binary(Binary {
                subtype: BinarySubtype::from(subtype),
                bytes: bytes.map_err(|error| told(&error))?,
            })
        }
        _ => return Ok(None),
    };
    Ok(Some(scalar))
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("no number: {text:?}"))
}

fn number(json: &Value) -> Result<u32, String> {
    let number = json.as_u64().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| format!("no number: {json}"))
}
