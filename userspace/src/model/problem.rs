//! What is wrong with an object, said so that its owner can mend it.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::ServiceName;

/// The kinds of objects that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// v1 Node: only the one we run on.
    Node,
    /// networking.k8s.io/v1 ServiceCIDR.
    ServiceCidr,
}

/// One object of the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// What it is.
    pub kind: Kind,
    /// Its namespace; empty for kinds that have none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// One thing that is wrong, or that is asked for and not served. Whatever else the object says holds
/// nevertheless.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
pub struct Problem {
    /// Whose it is: "Service default/web" or "file a.yaml".
    pub object: String,
    /// Where in it: `spec.ports[1].port`. Empty if it is the whole.
    pub field: String,
    /// What is wrong, with the value.
    pub message: String,
    /// Which file it was read from, if from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Service, Self::EndpointSlice, Self::Node, Self::ServiceCidr];

    /// Those without which absence means nothing.
    pub const NEEDED: [Self; 2] = [Self::Service, Self::EndpointSlice];

    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }

    /// Whether its objects are in namespaces.
    pub const fn is_namespaced(self) -> bool {
        match self {
            Self::Service | Self::EndpointSlice => true,
            Self::Node | Self::ServiceCidr => false,
        }
    }
}

impl ObjectRef {
    /// From its parts.
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl From<&ServiceName> for ObjectRef {
    fn from(ServiceName { namespace, name }: &ServiceName) -> Self {
        Self { kind: Kind::Service, namespace: namespace.clone(), name: name.clone() }
    }
}

impl Problem {
    /// A problem of `object` in `field`.
    pub fn new(object: impl fmt::Display, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { object: object.to_string(), field: field.into(), message: message.into(), source: None }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        if kind.is_namespaced() { write!(f, "{kind} {namespace}/{name}") } else { write!(f, "{kind} {name}") }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, field, message, source } = self;
        write!(f, "{object}: ")?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(message)?;
        match source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_whose_where_what_and_from_which_file() {
        check("spec.type", None, "Service default/web: spec.type: bad");
        check("spec.type", Some("a.yaml"), "Service default/web: spec.type: bad (a.yaml)");
    }

    #[test]
    fn a_kind_without_namespaces_is_named_without_one() {
        assert_eq!(ObjectRef::new(Kind::Node, "", "n1").to_string(), "Node n1");
    }

    #[test]
    fn a_problem_of_the_whole_object_names_no_field() {
        check("", None, "Service default/web: bad");
    }

    fn check(field: &str, source: Option<&str>, text: &str) {
        let object = ObjectRef::new(Kind::Service, "default", "web");
        let source = source.map(str::to_owned);
        assert_eq!(Problem { source, ..Problem::new(object, field, "bad") }.to_string(), text);
    }
}
