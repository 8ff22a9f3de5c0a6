//! The backends of docker-compose.yml that store log records, and the query for one record in each.

use serde_json::json;

/// A backend that stores log records.
pub(super) struct Store {
    /// The backend's name in docs/queries.md, which is also the name of its Compose service.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// The Compose service that logs whether the store answers.
    pub(super) watched_by: &'static str,
    /// The log message of that service when the store answers again.
    pub(super) back_message: &'static str,
    /// The variable of .env with the port of the store.
    pub(super) port: &'static str,
    /// Builds the query for the record of a client of the slow server, by the client's port.
    pub(super) query: fn(&str) -> String,
}

impl Store {
    /// The log message of that service when the store stops answering
    /// (packaging/demo/workload/src/backends.rs).
    pub(super) fn down_message(&self) -> String {
        format!("{} is down", self.title)
    }
}

pub(super) const LOKI: Store = Store {
    name: "loki",
    title: "Loki",
    watched_by: "backends",
    back_message: "Loki answers",
    port: "LOKI_PORT",
    query: |peer| format!("{{service_name=\"slow\"}} | network_peer_port=\"{peer}\""),
};
pub(super) const VICTORIALOGS: Store = Store {
    name: "victorialogs",
    title: "VictoriaLogs",
    watched_by: "backends-victorialogs",
    back_message: "VictoriaLogs: http://localhost:",
    port: "VICTORIALOGS_PORT",
    query: |peer| format!("_time:30m service.name:=slow network.peer.port:={peer}"),
};
pub(super) const ELASTICSEARCH: Store = Store {
    name: "elasticsearch",
    title: "Elasticsearch",
    watched_by: "backends-elastic",
    back_message: "Elasticsearch: http://localhost:",
    port: "ELASTICSEARCH_PORT",
    query: |peer| {
        let filter = json!([
            { "term": { "resource.attributes.service.name": "slow" } },
            { "term": { "attributes.network.peer.port": peer } },
        ]);
        let body = json!({ "query": { "bool": { "filter": filter } }, "_source": false,
            "fields": ["resource.attributes.*", "attributes.*", "trace_id"] });
        format!("POST /logs-acceptd.otel-default/_search\n{body}")
    },
};
