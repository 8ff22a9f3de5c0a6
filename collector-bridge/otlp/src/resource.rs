//! The OTLP Resource of a process. It is encoded once, and shared by all records of the process.

use std::{collections::BTreeMap, sync::Arc};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, EntityRef, KeyValue, any_value::Value},
    resource::v1::Resource,
};
use prost::Message as _;

use crate::{
    distro::{DISTRO_NAME, VERSION},
    names,
    text::escape,
};

/// Upper bound of an encoded Resource, in bytes. The Resource is in every request with a record of its
/// process.
pub const MAX_RESOURCE_BYTES: usize = 8 << 10;

/// Upper bound, in bytes, of a text that identifies an entity: such a text is never removed to keep the
/// Resource within its bound.
const MAX_IDENTITY_BYTES: usize = 1024;

/// The host, as in every Resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `host.id`
    pub id: Option<String>,
    /// `host.name`
    pub name: String,
    /// `host.arch`, one of the values of the semantic conventions.
    pub arch: &'static str,
}

/// The facts about one process. `Vec<u8>` fields are raw bytes; [`EncodedResource::for_process`] escapes
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// `process.pid`
    pub pid: u32,
    /// `process.creation.time`, RFC 3339 with milliseconds.
    pub creation_time: Option<String>,
    /// `process.executable.name`. A kernel thread has no executable: here is its name in brackets.
    pub executable_name: Vec<u8>,
    /// `process.executable.path`
    pub executable_path: Option<Vec<u8>>,
    /// `process.title`, if it says more than `executable_name`.
    pub title: Option<Vec<u8>>,
    /// `process.user.id`, the effective user id.
    pub user_id: u32,
    /// `process.real_user.id`, if it differs from `user_id`.
    pub real_user_id: Option<u32>,
    /// `process.owner`
    pub owner: Option<String>,
    /// Whether this is a kernel thread. A kernel thread has no executable.
    pub kernel_thread: bool,
    /// `container.id`
    pub container_id: Option<String>,
    /// `k8s.pod.uid`
    pub pod_uid: Option<String>,
    /// The name of the systemd service without `.service`. It is the `service.name` of a process that does
    /// not declare one.
    pub unit: Option<String>,
    /// Details that are only sent if the operator configured them.
    pub details: ProcessDetails,
}

/// Details of a process that are only sent if the operator configured them. Raw bytes, as in [`Process`].
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ProcessDetails {
    /// `process.command`
    pub command: Option<Vec<u8>>,
    /// `process.command_args`; empty if they are not configured, or not known.
    pub command_args: Vec<Vec<u8>>,
    /// `process.args_count`
    pub args_count: Option<u32>,
    /// `process.parent_pid`
    pub parent_pid: Option<u32>,
}

impl ProcessDetails {
    fn encode(&self, attributes: &mut Vec<KeyValue>, value_length: usize) {
        let command = self.command.as_ref().map(|command| escape(command, value_length));
        push_text(attributes, names::PROCESS_COMMAND, command.as_deref());
        if !self.command_args.is_empty() {
            let texts = self.command_args.iter().map(|one| Value::StringValue(escape(one, value_length)));
            let values = texts.map(|text| AnyValue { value: Some(text) }).collect();
            attributes.push(attribute(names::PROCESS_COMMAND_ARGS, Value::ArrayValue(ArrayValue { values })));
        }
        attributes.extend(self.args_count.map(|count| int(names::PROCESS_ARGS_COUNT, count)));
        attributes.extend(self.parent_pid.map(|pid| int(names::PROCESS_PARENT_PID, pid)));
    }
}

impl Process {
    /// `service.name`: the declared one, or that of the systemd service, or `unknown_service:` and the
    /// executable.
    #[must_use]
    pub fn service_name(&self, declared: DeclaredAttributes<'_>, value_length: usize) -> String {
        self.known_service(declared).map_or_else(
            || format!("unknown_service:{}", identity(&self.executable_name, value_length)),
            |name| identity(name.as_bytes(), value_length),
        )
    }

    fn known_service<'a>(&'a self, declared: DeclaredAttributes<'a>) -> Option<&'a String> {
        declared.by_process.get(names::SERVICE_NAME).or(self.unit.as_ref())
    }
}

/// Escapes a text that is never removed from a Resource.
fn identity(raw: &[u8], value_length: usize) -> String {
    escape(raw, value_length.min(MAX_IDENTITY_BYTES))
}

/// Attributes that were declared, not observed. They never override an observed attribute.
#[derive(Debug, Clone, Copy)]
pub struct DeclaredAttributes<'a> {
    /// Attributes that the process declares about itself (`OTEL_RESOURCE_ATTRIBUTES` and the like). For the
    /// same key they take precedence over the operator's; where the Resource's bound is reached, the
    /// operator's are kept first.
    pub by_process: &'a BTreeMap<String, String>,
    /// Attributes that the operator configured for every process.
    pub by_operator: &'a [(String, String)],
}

/// A `Resource` message with its entity references, at most [`MAX_RESOURCE_BYTES`] long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedResource(Arc<[u8]>);

impl EncodedResource {
    /// Encodes the Resource of a process. Texts are cut at `value_length` bytes.
    #[must_use]
    pub fn for_process(
        host: &Host,
        process: &Process,
        declared: DeclaredAttributes<'_>,
        value_length: usize,
    ) -> Self {
        let name = escape(&process.executable_name, value_length);
        let mut attributes = vec![int(names::PROCESS_PID, process.pid)];
        push_text(&mut attributes, names::PROCESS_CREATION_TIME, process.creation_time.as_deref());
        if !process.kernel_thread {
            push_text(&mut attributes, names::PROCESS_EXECUTABLE_NAME, Some(&name));
            let path = process.executable_path.as_ref().map(|path| escape(path, value_length));
            push_text(&mut attributes, names::PROCESS_EXECUTABLE_PATH, path.as_deref());
            let title = process.title.as_ref().map(|title| escape(title, value_length));
            push_text(&mut attributes, names::PROCESS_TITLE, title.as_deref());
        }
        attributes.push(int(names::PROCESS_USER_ID, process.user_id));
        attributes.extend(process.real_user_id.map(|id| int(names::PROCESS_REAL_USER_ID, id)));
        let owner = process.owner.as_ref().map(|owner| escape(owner.as_bytes(), value_length));
        push_text(&mut attributes, names::PROCESS_OWNER, owner.as_deref());
        process.details.encode(&mut attributes, value_length);
        push_text(&mut attributes, names::CONTAINER_ID, process.container_id.as_deref());
        push_text(&mut attributes, names::K8S_POD_UID, process.pod_uid.as_deref());
        attributes.push(text(names::SERVICE_NAME, process.service_name(declared, value_length)));
        let host_id = host.id.as_ref().map(|id| identity(id.as_bytes(), value_length));
        push_text(&mut attributes, names::HOST_ID, host_id.as_deref());
        attributes.push(text(names::HOST_NAME, escape(host.name.as_bytes(), value_length)));
        attributes.push(text(names::HOST_ARCH, host.arch.to_owned()));
        attributes.push(text(names::OS_TYPE, "linux".to_owned()));
        attributes.push(text(names::TELEMETRY_DISTRO_NAME, DISTRO_NAME.to_owned()));
        attributes.push(text(names::TELEMETRY_DISTRO_VERSION, VERSION.to_owned()));

        let mut entity_refs = Vec::new();
        if process.creation_time.is_some() {
            entity_refs.push(entity("process", &[names::PROCESS_PID, names::PROCESS_CREATION_TIME]));
        }
        if host_id.is_some_and(|id| !id.is_empty()) {
            entity_refs.push(entity("host", &[names::HOST_ID]));
        }
        if process.container_id.is_some() {
            entity_refs.push(entity("container", &[names::CONTAINER_ID]));
        }
        if process.known_service(declared).is_some_and(|name| !name.is_empty()) {
            entity_refs.push(entity("service", &[names::SERVICE_NAME]));
        }
        let resource = Resource { attributes, dropped_attributes_count: 0, entity_refs };
        Self::bounded(resource, declared, value_length)
    }

    /// Adds the declared attributes whose key is new and that fit into [`MAX_RESOURCE_BYTES`], and encodes
    /// the Resource.
    fn bounded(mut resource: Resource, declared: DeclaredAttributes<'_>, value_length: usize) -> Self {
        let by_operator = declared.by_operator.iter().map(|(key, value)| (key, value));
        let first = by_operator.clone().filter(|(key, _)| !declared.by_process.contains_key(*key));
        // The operator's attributes a second time, for keys that the process declares too, but for whose
        // value there was no room.
        for (key, value) in first.chain(declared.by_process).chain(by_operator) {
            let key = escape(key.as_bytes(), value_length);
            if key.is_empty() || resource.attributes.iter().any(|attribute| attribute.key == key) {
                continue;
            }
            resource.attributes.push(text(&key, escape(value.as_bytes(), value_length)));
            if resource.encoded_len() > MAX_RESOURCE_BYTES {
                resource.attributes.pop();
                resource.dropped_attributes_count += 1;
            }
        }
        // The observed texts alone may exceed the bound. Remove the longest one first, but never one that
        // identifies an entity.
        while resource.encoded_len() > MAX_RESOURCE_BYTES {
            let Some(longest) = longest_text(&resource) else { break };
            resource.attributes.remove(longest);
            resource.dropped_attributes_count += 1;
        }
        Self(resource.encode_to_vec().into())
    }

    /// The bytes of the encoded message.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn longest_text(resource: &Resource) -> Option<usize> {
    let is_key =
        |key: &str| resource.entity_refs.iter().any(|entity| entity.id_keys.iter().any(|id| id == key));
    let removable = resource
        .attributes
        .iter()
        .enumerate()
        .filter(|(_, attribute)| !is_key(&attribute.key) && attribute.key != names::SERVICE_NAME);
    removable.max_by_key(|(_, attribute)| attribute.encoded_len()).map(|(index, _)| index)
}

fn push_text(attributes: &mut Vec<KeyValue>, key: &str, value: Option<&str>) {
    attributes.extend(value.filter(|value| !value.is_empty()).map(|value| text(key, value.to_owned())));
}

fn text(key: &str, value: String) -> KeyValue {
    attribute(key, Value::StringValue(value))
}

fn int(key: &str, value: u32) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn entity(kind: &str, id_keys: &[&str]) -> EntityRef {
    EntityRef {
        schema_url: names::SCHEMA_URL.to_owned(),
        r#type: kind.to_owned(),
        id_keys: id_keys.iter().map(|&key| key.to_owned()).collect(),
        description_keys: Vec::new(),
    }
}
