//! Reads what a process publishes about itself: the process context of its OpenTelemetry SDK
//! (`process_context.rs`), and the environment variables that the SDK would read. Only attributes that name
//! the service are accepted, because the process is not trusted.

use std::collections::BTreeMap;

use acceptd_common::ServiceVariable;
use acceptd_otlp::names;
use opentelemetry_proto::tonic::{common::v1::any_value::Value, resource::v1::Resource};

use super::{c_string::until_nul, proc_dir::ProcDir, process_context};
use crate::config;

/// Most bytes read of a process's environment. execve(2) allows more; variables after this limit are not
/// seen.
const MAX_ENVIRON_BYTES: u64 = 1 << 20;

/// Most bytes of one attribute's value; a longer value is truncated.
const MAX_VALUE_BYTES: usize = 1 << 10;

/// Most bytes of all names and values of one process, because they are kept for each cached process.
const MAX_BYTES: usize = 4 << 10;

/// The name that an SDK gives a service without a configured name.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// Prefix of the accepted attributes; [`names::DEPLOYMENT_ENVIRONMENT_NAME`] is accepted, too.
const SERVICE_PREFIX: &str = "service.";

/// Attributes of a Resource, by name.
pub(super) type PublishedAttributes = BTreeMap<String, String>;

/// Reads the attributes in a process's environment. Can block for as long as the process makes the kernel
/// wait for its memory: a page may be behind a userfaultfd or a network file system.
pub(super) fn read_environment(dir: &ProcDir) -> PublishedAttributes {
    let block = dir.read("environ", MAX_ENVIRON_BYTES);
    bounded(block.map(|block| from_environment(&block)).unwrap_or_default())
}

/// The service's name in a variable that the eBPF programs read; empty if there is none.
pub(super) fn from_variable(variable: &ServiceVariable) -> PublishedAttributes {
    bounded(from_environment(until_nul(&variable.bytes)))
}

/// Reads the attributes in a process's context. Can block like [`read_environment`].
pub(super) fn read_context(dir: &ProcDir) -> PublishedAttributes {
    bounded(process_context::read(dir).map(from_resource).unwrap_or_default())
}

/// The attributes of the context, completed by those of the environment: a context without the service's name
/// keeps the name from the environment.
pub(super) fn merged(environment: &PublishedAttributes, context: PublishedAttributes) -> PublishedAttributes {
    let mut published = environment.clone();
    published.extend(context);
    bounded(published)
}

/// Truncates values, and drops attributes that do not fit into [`MAX_BYTES`]. The service's name has
/// priority.
fn bounded(published: PublishedAttributes) -> PublishedAttributes {
    let (names, others): (Vec<_>, Vec<_>) =
        published.into_iter().partition(|(key, _)| key == names::SERVICE_NAME);
    let mut room = MAX_BYTES;
    let fits = |(key, mut value): (String, String)| {
        value.truncate(value.floor_char_boundary(MAX_VALUE_BYTES));
        room = room.checked_sub(key.len() + value.len())?;
        // A new string, because a truncated one would keep all of its memory.
        Some((key, value.as_str().to_owned()))
    };
    names.into_iter().chain(others).filter_map(fits).collect()
}

fn from_resource(resource: Resource) -> PublishedAttributes {
    let texts = resource.attributes.into_iter().filter_map(|attribute| match attribute.value?.value? {
        Value::StringValue(text) => Some((attribute.key, text)),
        _ => None,
    });
    texts.filter(is_accepted).collect()
}

/// The accepted attributes of an environment block: `NAME=VALUE`, each ended by a NUL. `OTEL_SERVICE_NAME`
/// wins. As in an SDK, a list with an error in it counts as empty.
fn from_environment(block: &[u8]) -> PublishedAttributes {
    // As with getenv(3), the first of two variables with the same name counts.
    let value = |name: &[u8]| {
        let mut variables = block.split(|&byte| byte == 0);
        let value = variables.find_map(|variable| variable.strip_prefix(name)?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok().filter(|value| !value.is_empty())
    };
    let list = value(b"OTEL_RESOURCE_ATTRIBUTES").and_then(config::resource_attributes);
    let name = value(b"OTEL_SERVICE_NAME").map(|name| (names::SERVICE_NAME.to_owned(), name.to_owned()));
    list.unwrap_or_default().into_iter().chain(name).filter(is_accepted).collect()
}

fn is_accepted((key, value): &(String, String)) -> bool {
    let is_known = key.starts_with(SERVICE_PREFIX) || key == names::DEPLOYMENT_ENVIRONMENT_NAME;
    let is_unnamed = key == names::SERVICE_NAME && value.split(':').next() == Some(UNKNOWN_SERVICE);
    is_known && !value.is_empty() && !is_unnamed
}

#[cfg(test)]
mod tests {
    use acceptd_common::limits::SERVICE_VARIABLE_LEN;

    use super::*;

    fn published(pairs: &[(&str, &str)]) -> PublishedAttributes {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_attributes_that_name_the_service_are_read_from_the_environment() {
        let block = b"PATH=/bin\0OTEL_RESOURCE_ATTRIBUTES=service.version=1.2%2C3,process.pid=1,password=x,deployment.environment.name=prod,service.name=a\0OTEL_SERVICE_NAME=shop\0SECRET=y\0";
        let expected =
            [("deployment.environment.name", "prod"), ("service.name", "shop"), ("service.version", "1.2,3")];
        assert_eq!(from_environment(block), published(&expected));
    }

    #[test]
    fn what_follows_a_variable_is_not_read() {
        let variable = |text: &[u8]| {
            let mut bytes = [0; SERVICE_VARIABLE_LEN];
            bytes[..text.len()].copy_from_slice(text);
            from_variable(&ServiceVariable { bytes })
        };
        let rest = b"OTEL_SERVICE_NAME=shop\0OTEL_RESOURCE_ATTRIBUTES=service.version=7\0";
        assert_eq!(variable(rest), published(&[("service.name", "shop")]));
        for none in [&b""[..], b"OTEL_SERVICE_NAME=\0OTEL_SERVICE_NAME=x"] {
            assert_eq!(variable(none), PublishedAttributes::new());
        }
    }

    #[test]
    fn a_name_alone_is_enough_and_the_first_of_two_counts() {
        assert_eq!(
            from_environment(b"OTEL_SERVICE_NAME=one\0OTEL_SERVICE_NAME=two"),
            published(&[("service.name", "one")])
        );
        let from_list =
            from_environment(b"OTEL_SERVICE_NAME=\0OTEL_RESOURCE_ATTRIBUTES=service.name=listed\0");
        assert_eq!(from_list, published(&[("service.name", "listed")]));
    }

    #[test]
    fn the_default_name_of_an_sdk_is_no_name() {
        for name in ["unknown_service", "unknown_service:java"] {
            assert_eq!(from_environment(format!("OTEL_SERVICE_NAME={name}").as_bytes()).len(), 0, "{name}");
        }
        assert_eq!(from_environment(b"OTEL_SERVICE_NAME=unknown_services").len(), 1);
    }

    #[test]
    fn the_name_has_priority_when_attributes_are_dropped() {
        let long = "\u{e4}".repeat(MAX_VALUE_BYTES);
        let mut many: PublishedAttributes =
            (0..1000).map(|number| (format!("service.a{number}"), long.clone())).collect();
        many.insert(names::SERVICE_NAME.to_owned(), long.clone());
        let kept = bounded(many);
        assert_eq!(kept[names::SERVICE_NAME], "\u{e4}".repeat(MAX_VALUE_BYTES / 2));
        let bytes: usize = kept.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(kept.len() > 1 && bytes <= MAX_BYTES, "{} of {bytes} bytes", kept.len());
    }

    #[test]
    fn a_malformed_environment_has_no_attributes() {
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
            assert_eq!(from_environment(block), PublishedAttributes::new(), "{}", block.escape_ascii());
        }
    }
}
