//! The stores of docker-compose.yml that keep log records, and how each is asked for one.

use serde_json::json;

/// Who keeps log records.
pub(super) struct Store {
    /// By which it is asked, and the service.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// The service that says whether it is away.
    pub(super) told_by: &'static str,
    /// What that says when it is back.
    pub(super) is_back: &'static str,
    /// A variable of .env.
    pub(super) port: &'static str,
    /// What finds a client of the slow server, by its port.
    pub(super) query: fn(&str) -> String,
}

impl Store {
    /// What is said then.
    pub(super) fn is_away(&self) -> String {
        format!("{} is away", self.title)
    }
}

pub(super) const LOKI: Store = Store {
    name: "loki",
    title: "Loki",
    told_by: "backends",
    is_back: "Loki answers",
    port: "LOKI_PORT",
    query: |peer| format!("{{service_name=\"slow\"}} | network_peer_port=\"{peer}\""),
};
pub(super) const VICTORIALOGS: Store = Store {
    name: "victorialogs",
    title: "VictoriaLogs",
    told_by: "backends-victorialogs",
    is_back: "VictoriaLogs: http://localhost:",
    port: "VICTORIALOGS_PORT",
    query: |peer| format!("_time:30m service.name:=slow network.peer.port:={peer}"),
};
pub(super) const ELASTICSEARCH: Store = Store {
    name: "elasticsearch",
    title: "Elasticsearch",
    told_by: "backends-elastic",
    is_back: "Elasticsearch: http://localhost:",
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
