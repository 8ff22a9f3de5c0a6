//! What a process says of itself, in the words of OpenTelemetry: the process context that its SDK publishes (`context.rs`), and
//! the variables that the SDK would read. Only what names the service is taken, and it is never believed about anything else.

use std::collections::BTreeMap;

use acceptd_otlp::names;
use opentelemetry_proto::tonic::{common::v1::any_value::Value, resource::v1::Resource};

use super::{context, folder::Folder};
use crate::config;

/// Most bytes of a process's environment that are looked at. One of execve(2) can be longer; what is behind is not seen.
const ENVIRON: u64 = 1 << 20;

/// Most attributes of one process.
const MOST: usize = 32;

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
    while published.len() > MOST {
        published.pop_last();
    }
    published
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
    let mut published: Published = list.unwrap_or_default().into_iter().filter(is_taken).collect();
    if let Some(name) = value(b"OTEL_SERVICE_NAME") {
        published.insert(names::SERVICE_NAME.to_owned(), name.to_owned());
    }
    published
}

fn is_taken((key, value): &(String, String)) -> bool {
    let is_known = key.starts_with(SERVICE) || key == names::DEPLOYMENT_ENVIRONMENT_NAME;
    is_known && !value.is_empty()
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
