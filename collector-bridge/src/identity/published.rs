//! What a process says of itself, in the words of OpenTelemetry: the process context that its SDK publishes (`context.rs`), and
//! the variables that the SDK would read. Only what names the service is taken, and it is never believed about anything else.

use std::collections::BTreeMap;

use acceptd_otlp::names;
use opentelemetry_proto::tonic::{common::v1::any_value::Value, resource::v1::Resource};

use super::{context, folder::Folder};
use crate::config;

/// Most bytes of a process's environment that are looked at. One of execve(2) can be longer; what is behind is not seen.
const ENVIRON: u64 = 1 << 20;

/// Most bytes of one attribute's value.
const VALUE: usize = 1 << 10;

/// Most bytes of all that one process says, names and values: it is kept for each process that is known.
const ROOM: usize = 4 << 10;

/// What an SDK calls a service that nobody named.
const NAMELESS: &str = "unknown_service";

/// What begins so is taken, and [`names::DEPLOYMENT_ENVIRONMENT_NAME`].
const SERVICE: &str = "service.";

/// Attributes of a Resource, by name.
pub(super) type Published = BTreeMap<String, String>;

/// Looks into a process: its context, completed by its environment. Its memory is read, and that can take as long as the process
/// wants: a page of it may be behind a userfaultfd or a network.
pub(super) fn of(folder: &Folder) -> Published {
    let mut published =
        folder.read("environ", ENVIRON).map(|block| of_environment(&block)).unwrap_or_default();
    if let Some(resource) = context::read(folder) {
        // One that its SDK did not name is still the service of the variable.
        published.extend(of_resource(resource));
    }
    bounded(published)
}

/// What there is room for, the service's name first.
fn bounded(published: Published) -> Published {
    let (names, others): (Vec<_>, Vec<_>) =
        published.into_iter().partition(|(key, _)| key == names::SERVICE_NAME);
    let mut room = ROOM;
    let fits = |(key, mut value): (String, String)| {
        value.truncate(value.floor_char_boundary(VALUE));
        room = room.checked_sub(key.len() + value.len())?;
        // What is left of a long value would keep all of its memory.
        Some((key, value.as_str().to_owned()))
    };
    names.into_iter().chain(others).filter_map(fits).collect()
}

fn of_resource(resource: Resource) -> Published {
    let texts = resource.attributes.into_iter().filter_map(|attribute| match attribute.value?.value? {
        Value::StringValue(text) => Some((attribute.key, text)),
        _ => None,
    });
    texts.filter(is_taken).collect()
}

/// `NAME=VALUE` with a NUL behind each, as the process was given them. `OTEL_SERVICE_NAME` wins; a list with an error in it says
/// nothing, as for an SDK.
fn of_environment(block: &[u8]) -> Published {
    // Of two with one name, getenv(3) gives the first.
    let value = |name: &[u8]| {
        let mut variables = block.split(|&byte| byte == 0);
        let value = variables.find_map(|variable| variable.strip_prefix(name)?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok().filter(|value| !value.is_empty())
    };
    let list = value(b"OTEL_RESOURCE_ATTRIBUTES").and_then(config::resource_attributes);
    let name = value(b"OTEL_SERVICE_NAME").map(|name| (names::SERVICE_NAME.to_owned(), name.to_owned()));
    list.unwrap_or_default().into_iter().chain(name).filter(is_taken).collect()
}

fn is_taken((key, value): &(String, String)) -> bool {
    let is_known = key.starts_with(SERVICE) || key == names::DEPLOYMENT_ENVIRONMENT_NAME;
    let says_nothing = key == names::SERVICE_NAME && value.split(':').next() == Some(NAMELESS);
    is_known && !value.is_empty() && !says_nothing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(pairs: &[(&str, &str)]) -> Published {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_what_names_the_service_is_taken_from_the_environment() {
        let block = b"PATH=/bin\0OTEL_RESOURCE_ATTRIBUTES=service.version=1.2%2C3,process.pid=1,password=x,deployment.environment.name=prod,service.name=a\0OTEL_SERVICE_NAME=shop\0SECRET=y\0";
        let expected =
            [("deployment.environment.name", "prod"), ("service.name", "shop"), ("service.version", "1.2,3")];
        assert_eq!(of_environment(block), published(&expected));
    }

    #[test]
    fn a_name_alone_is_enough_and_the_first_of_two_counts() {
        assert_eq!(
            of_environment(b"OTEL_SERVICE_NAME=one\0OTEL_SERVICE_NAME=two"),
            published(&[("service.name", "one")])
        );
        let of_the_list =
            of_environment(b"OTEL_SERVICE_NAME=\0OTEL_RESOURCE_ATTRIBUTES=service.name=listed\0");
        assert_eq!(of_the_list, published(&[("service.name", "listed")]));
    }

    #[test]
    fn what_an_sdk_calls_a_nameless_service_is_no_name() {
        for name in ["unknown_service", "unknown_service:java"] {
            assert_eq!(of_environment(format!("OTEL_SERVICE_NAME={name}").as_bytes()).len(), 0, "{name}");
        }
        assert_eq!(of_environment(b"OTEL_SERVICE_NAME=unknown_services").len(), 1);
    }

    #[test]
    fn there_is_room_for_the_name_and_for_little_else() {
        let long = "\u{e4}".repeat(VALUE);
        let mut many: Published =
            (0..1000).map(|number| (format!("service.a{number}"), long.clone())).collect();
        many.insert(names::SERVICE_NAME.to_owned(), long.clone());
        let kept = bounded(many);
        assert_eq!(kept[names::SERVICE_NAME], "\u{e4}".repeat(VALUE / 2));
        let bytes: usize = kept.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(kept.len() > 1 && bytes <= ROOM, "{} of {bytes} bytes", kept.len());
    }

    #[test]
    fn what_is_no_environment_says_nothing() {
        for block in [
            &b""[..],
            b"\0\0\0",
            b"OTEL_SERVICE_NAME",
            b"XOTEL_SERVICE_NAME=a",
            b"OTEL_SERVICE_NAMES=a",
            b"OTEL_SERVICE_NAME=\xff\0",
            b"OTEL_RESOURCE_ATTRIBUTES=service.name=a,broken\0",
            b"OTEL_RESOURCE_ATTRIBUTES=service.name=%zz\0",
            b"nginx: worker process\0\0\0\0",
        ] {
            assert_eq!(of_environment(block), Published::new(), "{}", block.escape_ascii());
        }
    }
}
