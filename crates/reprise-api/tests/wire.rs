//! The OpenAPI document against what is sent and taken: a client that is made from it reads every answer, and is refused
//! for nothing that the document allows.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::strategy::{Strategy, ValueTree};
use proptest::string::string_regex;
use proptest::test_runner::TestRunner;
use reprise_api::openapi::document;
use reprise_api::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn schemas() -> BTreeMap<String, Value> {
    let doc = serde_json::to_value(document()).unwrap();
    let schemas = doc["components"]["schemas"].as_object().unwrap().clone();
    schemas.into_iter().collect()
}

#[test]
fn error_codes_are_listed_as_they_are_sent() {
    let listed = schemas()["ErrorCode"]["enum"].clone();
    assert_eq!(listed, serde_json::to_value(ErrorCode::ALL).unwrap());
}

/// Every word that the document lists is one that the type knows.
fn words<T: DeserializeOwned>(schemas: &BTreeMap<String, Value>, name: &str) {
    let listed = schemas[name]["enum"].as_array().unwrap_or_else(|| panic!("{name} lists no words"));
    assert!(!listed.is_empty(), "{name}");
    for word in listed {
        assert!(serde_json::from_value::<T>(word.clone()).is_ok(), "{name}: {word} is not a word on the wire");
    }
}

#[test]
fn words_are_listed_as_they_are_sent() {
    let schemas = schemas();
    let mut known: Vec<&str> = Vec::new();
    macro_rules! known_words {
        ($($type:ident)*) => { $(words::<$type>(&schemas, stringify!($type)); known.push(stringify!($type));)* };
    }
    known_words! {
        ErrorCode Rights Severity JobKind BlockSize Slot MailSecurity BondMode PowerAction ResetLevel LogSource VolumeKind
        MirrorTroubleKind ImageSource HeldBy
    }
    for (name, schema) in &schemas {
        assert!(
            schema["enum"].is_null() || known.contains(&name.as_str()),
            "{name} lists words that are not tried here"
        );
    }
}

/// Texts that follow the pattern of a schema.
fn texts(pattern: &str) -> Vec<String> {
    // The pattern begins and ends with anchors, of which a generator has no need.
    let inner = pattern.trim_start_matches('^').trim_end_matches('$').replace("\\u00", "\\x");
    let strategy = string_regex(&inner).unwrap_or_else(|e| panic!("{pattern}: {e}"));
    let mut runner = TestRunner::deterministic();
    (0..200).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

fn check<T: DeserializeOwned + Debug>(schema: &Value, bad: &[Value]) {
    let parts = schema["oneOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
    for part in &parts {
        if let Some(pattern) = part["pattern"].as_str() {
            let longest = part["maxLength"].as_u64().unwrap_or(u64::MAX) as usize;
            for text in texts(pattern).into_iter().filter(|text| text.chars().count() <= longest) {
                let read = serde_json::from_value::<T>(json!(text));
                assert!(read.is_ok(), "{text:?} follows {pattern} and is refused: {read:?}");
            }
        }
        for bound in ["minimum", "maximum"] {
            if let Some(number) = part[bound].as_u64() {
                assert!(serde_json::from_value::<T>(json!(number)).is_ok(), "{bound} {number}");
            }
        }
    }
    for value in bad {
        assert!(serde_json::from_value::<T>(value.clone()).is_err(), "{value} is taken");
    }
}

#[test]
fn what_follows_a_pattern_is_taken() {
    let schemas = schemas();
    check::<Name>(&schemas["Name"], &[json!("x".repeat(49)), json!("A"), json!(""), json!(7)]);
    check::<InitiatorName>(&schemas["InitiatorName"], &[json!("host"), json!(format!("iqn.{}", "x".repeat(220)))]);
    check::<ChapSecret>(&json!({"type": "string", "pattern": "^[ -~]{12,255}$"}), &[json!("eleven-byte")]);
    check::<ByteSize>(&schemas["ByteSize"], &[json!(-1), json!("1X"), json!("")]);
    check::<ByteSize>(&schemas["VolumeSize"], &[json!(-1)]);
    check::<IpNetwork>(&schemas["IpNetwork"], &[json!("192.0.2.0/33"), json!("1:2:3:4:5:6:7:8:9"), json!("host")]);
    check::<std::net::IpAddr>(&schemas["IpAddress"], &[json!("192.0.2.256"), json!("1::2::3")]);
}

/// Bounds that the box enforces stand in the document.
#[test]
fn bounds_are_in_the_document() {
    let doc = serde_json::to_value(document()).unwrap();
    let parameter = |path: &str, name: &str| -> Value {
        let list = doc["paths"][path]["get"]["parameters"].as_array().unwrap().clone();
        list.into_iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("{path} has no {name}"))["schema"].clone()
    };
    for (path, name, min, max) in [
        ("/api/v1/events", "limit", Some(1), Some(u64::from(PAGE_MAX))),
        ("/api/v1/events", "wait_secs", Some(0), Some(u64::from(EVENT_WAIT_SECS_MAX))),
        ("/api/v1/events", "after", Some(0), Some(u64::MAX)),
        ("/api/v1/inspect", "limit", Some(1), Some(u64::from(PAGE_MAX))),
        ("/api/v1/inspect", "from_seq", Some(0), Some(u64::MAX)),
        ("/api/v1/system/logs", "lines", Some(1), Some(u64::from(LOG_LINES_MAX))),
        ("/api/v1/jobs/show", "id", Some(0), Some(u64::MAX)),
    ] {
        let schema = parameter(path, name);
        assert_eq!((schema["minimum"].as_u64(), schema["maximum"].as_u64()), (min, max), "{path} {name}: {schema}");
    }
    let schemas = schemas();
    for (place, key, value) in [
        ("PairListen/valid_secs", "minimum", 30),
        ("PairListen/valid_secs", "maximum", u64::from(PAIR_SECS_MAX)),
        ("TokenCreate/label", "minLength", 1),
        ("TokenCreate/label", "maxLength", TOKEN_LABEL_CHARS_MAX as u64),
        ("PasswordSet/new", "minLength", PASSWORD_CHARS_MIN as u64),
        ("PasswordSet/new", "maxLength", PASSWORD_BYTES_MAX as u64),
        ("InitiatorAdd/groups", "maxItems", RULES_MAX as u64),
        ("InitiatorAdd/addresses", "maxItems", RULES_MAX as u64),
        ("InitiatorSet/groups", "maxItems", RULES_MAX as u64),
        ("InitiatorSet/addresses", "maxItems", RULES_MAX as u64),
        ("InitiatorAdd/iops", "maximum", u64::from(u32::MAX)),
        ("TimeSet/servers", "maxItems", 8),
        ("NotifySettings/webhooks", "maxItems", RECEIVERS_MAX as u64),
        ("MailSettings/to", "minItems", 1),
        ("MailSettings/to", "maxItems", RECEIVERS_MAX as u64),
        ("MailSettings/from", "maxLength", MAIL_CHARS_MAX as u64),
        ("MailSettings/server", "maxLength", MAIL_CHARS_MAX as u64),
        ("MailSettings/port", "maximum", u64::from(u16::MAX)),
        ("Webhook/url", "maxLength", URL_CHARS_MAX as u64),
    ] {
        let (schema, field) = place.split_once('/').unwrap();
        assert_eq!(schemas[schema]["properties"][field][key], value, "{place} {key}: {}", schemas[schema]);
    }
    let size = &schemas["VolumeSize"]["oneOf"][0];
    assert_eq!((&size["minimum"], &size["multipleOf"]), (&json!(VOLUME_GRAIN), &json!(VOLUME_GRAIN)));
    assert_eq!(schemas["Name"]["maxLength"], value::NAME_LEN_MAX);
}

#[test]
fn requests_refuse_what_they_do_not_know_in_the_document_too() {
    let schemas = schemas();
    for route in routes().filter(|route| route.verb == Verb::Post) {
        let schema = &schemas[route.request];
        assert_eq!(schema["additionalProperties"], false, "{}: {schema}", route.request);
    }
}

#[test]
fn kinds_refuse_what_they_do_not_know_in_the_document_too() {
    let schemas = schemas();
    for name in ["Action", "InterfaceKind", "AddressMethod"] {
        for kind in schemas[name]["oneOf"].as_array().unwrap() {
            assert_eq!(kind["additionalProperties"], false, "{name}: {kind}");
        }
    }
    let action = json!({"kind": "volume_erase", "volume": "v", "more": 1});
    assert!(serde_json::from_value::<Action>(action).is_err());
}

/// Every route says that it answers 401 and 403, also the two that are no commands.
#[test]
fn refusals_are_in_the_document() {
    let doc = serde_json::to_value(document()).unwrap();
    let mut operations = 0;
    for (path, item) in doc["paths"].as_object().unwrap() {
        for (verb, operation) in item.as_object().unwrap() {
            for status in ["401", "403", "default"] {
                let schema = &operation["responses"][status]["content"]["application/json"]["schema"];
                assert_eq!(schema["$ref"], "#/components/schemas/ApiError", "{verb} {path} {status}");
            }
            operations += 1;
        }
    }
    assert_eq!(operations, routes().count() + 2);
}
