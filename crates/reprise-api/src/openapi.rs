//! The OpenAPI document, made from the command table and the types.

use std::collections::BTreeMap;

use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, KnownFormat, Schema, SchemaFormat};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Paths, Ref, RefOr, Required,
    ResponseBuilder, SecurityRequirement,
};
use utoipa::{IntoParams, ToSchema};

use crate::command::*;
use crate::error::ApiError;
use crate::event::*;
use crate::route::{
    METRICS_PATH, OPENAPI_PATH, Rights, Route, Verb, appliance_commands, route, server_commands, service_commands,
};
use crate::status::*;
use crate::system::LogSource;
use crate::value::Name;

struct Builder {
    paths: Paths,
    schemas: BTreeMap<String, RefOr<Schema>>,
}

impl Builder {
    fn reference<T: ToSchema>(&mut self) -> Ref {
        let name = T::name().into_owned();
        let mut found = Vec::new();
        T::schemas(&mut found);
        self.schemas.extend(found);
        self.schemas.insert(name.clone(), T::schema());
        Ref::from_schema_name(name)
    }

    fn operation<Resp: ToSchema>(&mut self, route: &Route) -> OperationBuilder {
        let answer = self.reference::<Resp>();
        let error = self.reference::<ApiError>();
        let tag = route.path.split('/').nth(3).unwrap_or("box");
        let place = if route.is_at_the_box() { " and a caller on the box itself" } else { "" };
        OperationBuilder::new()
            .operation_id(Some(route.name))
            .summary(Some(route.summary))
            .description(Some(format!("Needs the right `{}`{place}.", route.right)))
            .tag(tag)
            .security(SecurityRequirement::new("token", [route.right.as_str()]))
            .response(
                "200",
                ResponseBuilder::new()
                    .description("Done.")
                    .content("application/json", ContentBuilder::new().schema(Some(answer)).build())
                    .build(),
            )
            .refusals(error)
    }

    fn get<Req: IntoParams, Resp: ToSchema>(&mut self, route: &Route) {
        let mut parameters = Req::into_params(|| Some(ParameterIn::Query));
        parameters.iter_mut().filter_map(|parameter| parameter.schema.as_mut()).for_each(with_bounds);
        let operation = self.operation::<Resp>(route).parameters(Some(parameters));
        self.add(route, HttpMethod::Get, operation);
    }

    fn post<Req: ToSchema, Resp: ToSchema>(&mut self, route: &Route) {
        let body = self.reference::<Req>();
        let body = RequestBodyBuilder::new()
            .required(Some(Required::True))
            .content("application/json", ContentBuilder::new().schema(Some(body)).build())
            .build();
        let operation = self.operation::<Resp>(route).request_body(Some(body));
        self.add(route, HttpMethod::Post, operation);
    }

    fn add(&mut self, route: &Route, method: HttpMethod, operation: OperationBuilder) {
        let item = PathItem::new(method, operation);
        match self.paths.paths.get_mut(route.path) {
            Some(there) => there.merge_operations(item),
            None => {
                self.paths.paths.insert(route.path.to_owned(), item);
            }
        }
    }

    fn text(&mut self, path: &str, media_type: &str, summary: &str) {
        let operation = OperationBuilder::new()
            .summary(Some(summary))
            .description(Some("Needs the right `read-only`."))
            .security(SecurityRequirement::new("token", [Rights::ReadOnly.as_str()]))
            .response(
                "200",
                ResponseBuilder::new().description("Done.").content(media_type, ContentBuilder::new().build()).build(),
            )
            .refusals(self.reference::<ApiError>());
        self.paths.paths.insert(path.to_owned(), PathItem::new(HttpMethod::Get, operation));
    }
}

/// What is the same for every route that refuses something.
trait Refusals {
    /// Answers of a server that refuses: 401 and 403 for the lack of a right, and all others.
    fn refusals(self, error: Ref) -> Self;
}

impl Refusals for OperationBuilder {
    fn refusals(self, error: Ref) -> Self {
        let refusal = |description: &str| {
            let content = ContentBuilder::new().schema(Some(error.clone())).build();
            ResponseBuilder::new().description(description).content("application/json", content).build()
        };
        self.response("401", refusal("No token, or one that the box does not know."))
            .response("403", refusal("The caller's right does not cover the command."))
            .response("default", refusal("Refused."))
    }
}

/// Parts of requests that are of one kind or another and refuse what they do not know. The macro that makes the schemas says
/// so for whole structures only.
const STRICT_KINDS: [&str; 3] = ["Action", "InterfaceKind", "AddressMethod"];

fn refuse_unknown_fields(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::OneOf(kinds)) => kinds.items.iter_mut().for_each(refuse_unknown_fields),
        RefOr::T(Schema::Object(kind)) => {
            kind.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
        _ => {}
    }
}

/// Says of integers how large they may be: their format says it as well, but not to every reader.
fn with_bounds(schema: &mut RefOr<Schema>) {
    let RefOr::T(schema) = schema else { return };
    match schema {
        Schema::Object(object) => {
            let max = match (&object.format, object.minimum.is_some(), object.maximum.is_some()) {
                (Some(SchemaFormat::KnownFormat(KnownFormat::Int32)), true, false) => Some(u64::from(u32::MAX)),
                (Some(SchemaFormat::KnownFormat(KnownFormat::Int64)), true, false) => Some(u64::MAX),
                _ => None,
            };
            if let Some(max) = max {
                object.maximum = Some(max.into());
            }
            object.properties.values_mut().for_each(with_bounds);
        }
        Schema::Array(array) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                with_bounds(items);
            }
        }
        Schema::OneOf(of) => of.items.iter_mut().for_each(with_bounds),
        Schema::AllOf(of) => of.items.iter_mut().for_each(with_bounds),
        Schema::AnyOf(of) => of.items.iter_mut().for_each(with_bounds),
        _ => {}
    }
}

macro_rules! add_operations {
    (($builder:ident) $($doc:literal $verb:ident $name:ident $path:literal $right:ident $req:ident => $resp:ident;)*) => {
        $(if let Some(route) = route(stringify!($name)) {
            debug_assert!(matches!(route.verb, Verb::Get | Verb::Post));
            $builder.$verb::<$req, $resp>(route);
        })*
    };
}

/// The document.
pub fn document() -> OpenApi {
    let mut builder = Builder { paths: Paths::new(), schemas: BTreeMap::new() };
    // Types of query parameters, which bring no schemas with them.
    builder.reference::<Name>();
    builder.reference::<LogSource>();
    service_commands!(add_operations builder);
    appliance_commands!(add_operations builder);
    server_commands!(add_operations builder);
    builder.text(OPENAPI_PATH, "application/json", "This document.");
    builder.text(METRICS_PATH, "text/plain; version=0.0.4", "Prometheus metrics.");
    builder.schemas.values_mut().for_each(with_bounds);
    for kinds in STRICT_KINDS {
        builder.schemas.entry(kinds.to_owned()).and_modify(refuse_unknown_fields);
    }
    let info = InfoBuilder::new()
        .title("reprise")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Commands, status, events and jobs of a reprise box."))
        .build();
    let token = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of the box, over HTTPS. The local socket knows its caller and needs none."))
            .build(),
    );
    let components =
        ComponentsBuilder::new().schemas_from_iter(builder.schemas).security_scheme("token", token).build();
    OpenApiBuilder::new().info(info).paths(builder.paths).components(Some(components)).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::routes;
    use serde_json::Value;

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    found.push(to);
                }
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_in_the_document_and_every_reference_leads_somewhere() {
        let doc = serde_json::to_value(document()).unwrap();
        for r in routes() {
            let verb = r.verb.as_str().to_ascii_lowercase();
            let operation = &doc["paths"][r.path][&verb];
            assert_eq!(operation["operationId"], r.name, "{verb} {}", r.path);
            assert!(operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].is_string());
            assert_eq!(operation["requestBody"].is_object(), r.verb == Verb::Post);
        }
        assert!(doc["paths"][METRICS_PATH]["get"].is_object());
        assert!(doc["paths"][OPENAPI_PATH]["get"].is_object());
        let mut found = Vec::new();
        references(&doc, &mut found);
        assert!(found.len() > 50);
        for to in found {
            assert!(doc.pointer(to.trim_start_matches('#')).is_some(), "{to} leads nowhere");
        }
    }

    #[test]
    fn query_parameters_are_listed() {
        let doc = serde_json::to_value(document()).unwrap();
        let names: Vec<&str> = doc["paths"]["/api/v1/events"]["get"]["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|p| p["name"].as_str())
            .collect();
        assert_eq!(names, ["after", "limit", "wait_secs"]);
    }
}
