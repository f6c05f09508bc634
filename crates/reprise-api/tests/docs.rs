//! `docs/api.md` against the types: what the code has, the page names.
#![allow(clippy::unwrap_used)]

use reprise_api::openapi::document;
use reprise_api::*;
use serde_json::Value;

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md")).unwrap()
}

/// The paths of all fields below `schema`, as the page writes them.
fn fields(doc: &Value, schema: &Value, path: &str, out: &mut Vec<String>) {
    if let Some(to) = schema["$ref"].as_str() {
        let Some(target) = doc.pointer(to.trim_start_matches('#')) else { panic!("{to} leads nowhere") };
        return fields(doc, target, path, out);
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        if let Some(options) = schema[key].as_array() {
            // A state: an object with a kind; the page lists its kinds.
            let tagged = options.iter().all(|o| o["properties"]["kind"].is_object());
            if !tagged {
                options.iter().for_each(|o| fields(doc, o, path, out));
            }
            return;
        }
    }
    if schema["items"].is_object() {
        return fields(doc, &schema["items"], &format!("{path}[]"), out);
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            out.push(path.clone());
            fields(doc, property, &path, out);
        }
    }
}

#[test]
fn the_page_names_every_field_of_the_status() {
    let (page, doc) = (page(), serde_json::to_value(document()).unwrap());
    let mut paths = Vec::new();
    fields(&doc, &doc["components"]["schemas"]["Status"], "", &mut paths);
    assert!(paths.len() > 120, "{}", paths.len());
    for path in paths {
        // One table serves the alerts of the box and of a group.
        let path = path.replace("groups[].alerts[].", "alerts[].");
        assert!(page.contains(&format!("`{path}`")), "docs/api.md does not name {path}");
    }
}

#[test]
fn the_page_names_every_route_with_its_right() {
    let page = page();
    for r in routes() {
        let row = format!("| `{} {}` | {} | `{}` | `{}` |", r.verb.as_str(), r.path, r.right, r.request, r.response);
        assert!(page.contains(&row), "docs/api.md misses {row}");
    }
}

#[test]
fn the_page_names_every_code_state_and_action() {
    let page = page();
    for code in ErrorCode::ALL {
        assert!(page.contains(&format!("| `{code}` | {} |", code.http_status())), "{code}");
    }
    for kind in GroupState::KINDS.iter().chain(&Action::KINDS) {
        assert!(page.contains(&format!("| `{kind}` |")), "{kind}");
    }
}
