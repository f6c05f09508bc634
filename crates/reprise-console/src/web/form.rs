//! What a form brings.

use std::fmt::Display;
use std::str::FromStr;

use super::problem::Problem;

/// Most fields of a form.
const FIELDS_MAX: usize = 128;

/// The fields of a form, or of a query.
#[derive(Clone, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `application/x-www-form-urlencoded`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let fields: Vec<(String, String)> =
            serde_urlencoded::from_bytes(bytes).map_err(|_| Problem::input("the form cannot be read"))?;
        if fields.len() > FIELDS_MAX {
            return Err(Problem::input("the form has too many fields"));
        }
        Ok(Self(fields))
    }

    /// As it was typed; empty if absent.
    pub(crate) fn raw(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// Without white space around it.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// True for a box that is ticked.
    pub(crate) fn ticked(&self, name: &str) -> bool {
        !self.raw(name).is_empty()
    }

    /// What is typed, or what stands there at first.
    pub(crate) fn or<'a>(&'a self, name: &str, first: &'a str) -> &'a str {
        self.0.iter().find(|(n, _)| n == name).map_or(first, |(_, v)| v)
    }

    /// True when there is no field: nothing was typed yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a field, as if it had been typed.
    pub(crate) fn with(mut self, name: &str, value: impl Display) -> Self {
        self.0.retain(|(n, _)| n != name);
        self.0.push((name.to_owned(), value.to_string()));
        self
    }

    /// A value with a rule. `label` is what the page calls the field.
    pub(crate) fn value<T: FromStr<Err: Display>>(&self, name: &'static str, label: &str) -> Result<T, Problem> {
        match self.text(name) {
            "" => Err(Problem::field(name, format!("{label} is missing"))),
            text => text.parse().map_err(|error| Problem::field(name, format!("{label}: {error}"))),
        }
    }

    /// A value that may be absent.
    pub(crate) fn optional<T: FromStr<Err: Display>>(
        &self,
        name: &'static str,
        label: &str,
    ) -> Result<Option<T>, Problem> {
        if self.text(name).is_empty() { Ok(None) } else { self.value(name, label).map(Some) }
    }

    /// Values between commas or white space.
    pub(crate) fn list<T: FromStr<Err: Display>>(&self, name: &'static str, label: &str) -> Result<Vec<T>, Problem> {
        let parts = self.text(name).split([',', ' ', '\n', '\r', '\t']).filter(|p| !p.is_empty());
        parts.map(|p| p.parse().map_err(|error| Problem::field(name, format!("{label}: {error}")))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_bounded() {
        let form = Form::parse(b"name=+pg+&size=1G&empty=&list=1%2C2%0A3+4&bad=x").unwrap();
        assert_eq!((form.text("name"), form.raw("name"), form.text("none")), ("pg", " pg ", ""));
        assert_eq!(form.value::<reprise_api::ByteSize>("size", "Size").unwrap().bytes(), 1 << 30);
        assert_eq!(form.list::<u32>("list", "List").unwrap(), [1, 2, 3, 4]);
        assert_eq!(form.optional::<u32>("empty", "E").unwrap(), None);
        let problem = form.value::<u32>("bad", "Count").unwrap_err();
        assert_eq!(problem.field_name(), Some("bad"));
        assert!(problem.message().starts_with("Count: "), "{}", problem.message());
        assert!(form.value::<u32>("empty", "E").is_err());
        assert!(Form::parse(&b"a=1&".repeat(FIELDS_MAX + 1)).is_err());
        assert!(Form::parse(b"%ff=%ff").is_ok(), "replaced, as browsers do");
    }
}
