//! Puts the metrics of listeners in containers under a Resource of their container, from which processors
//! such as k8sattributes find its pod.

use std::{collections::BTreeMap, mem};

use acceptd_otlp::names;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, EntityRef, KeyValue, any_value::Value},
    metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data,
    },
    resource::v1::Resource,
};

/// Attributes of the agent's Resource that describe its own process, and not the host.
const OF_THE_AGENT: [&str; 4] = ["process.", "service.", "container.", "k8s."];

/// Attributes that all processes of a host share although they begin like one of [`OF_THE_AGENT`].
const OF_THE_HOST: [&str; 2] = ["k8s.cluster.", "k8s.node."];

/// The container and pod of a listener, and the service that runs there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    container: Option<String>,
    pod: Option<String>,
    service: Option<String>,
}

/// A point of any metric.
trait Point {
    fn attributes(&mut self) -> &mut Vec<KeyValue>;
}

impl Point for NumberDataPoint {
    fn attributes(&mut self) -> &mut Vec<KeyValue> {
        &mut self.attributes
    }
}

impl Point for ExponentialHistogramDataPoint {
    fn attributes(&mut self) -> &mut Vec<KeyValue> {
        &mut self.attributes
    }
}

/// Moves each point with the attribute `container.id` or `k8s.pod.uid` under a Resource with this attribute.
/// The other points stay under the Resource that they have, which is the agent's.
#[must_use]
pub(super) fn by_container(mut all: ResourceMetrics) -> Vec<ResourceMetrics> {
    let agent = all.resource.clone().unwrap_or_default();
    let mut places: BTreeMap<Place, ResourceMetrics> = BTreeMap::new();
    for scope in &mut all.scope_metrics {
        for metric in &mut scope.metrics {
            for (place, moved) in take_placed(metric) {
                let resource = resource_of(&place, &agent);
                let group = places.entry(place).or_insert_with(|| ResourceMetrics {
                    resource: Some(resource),
                    scope_metrics: Vec::new(),
                    schema_url: all.schema_url.clone(),
                });
                if group.scope_metrics.is_empty() {
                    let (scope, schema_url) = (scope.scope.clone(), scope.schema_url.clone());
                    group.scope_metrics.push(ScopeMetrics { scope, metrics: Vec::new(), schema_url });
                }
                group.scope_metrics[0].metrics.push(moved);
            }
        }
        scope.metrics.retain(has_points);
    }
    [all].into_iter().chain(places.into_values()).collect()
}

/// Takes the points out of a metric that belong to a place: for each place the metric with its points.
fn take_placed(metric: &mut Metric) -> Vec<(Place, Metric)> {
    let Metric { name, description, unit, metadata, data } = metric;
    let with = |data| Metric {
        name: name.clone(),
        description: description.clone(),
        unit: unit.clone(),
        metadata: metadata.clone(),
        data: Some(data),
    };
    match data {
        Some(Data::Sum(sum)) => {
            let Sum { aggregation_temporality, is_monotonic, .. } = *sum;
            let moved = partition(&mut sum.data_points).into_iter();
            moved
                .map(|(place, data_points)| {
                    (place, with(Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic })))
                })
                .collect()
        }
        Some(Data::Gauge(gauge)) => partition(&mut gauge.data_points)
            .into_iter()
            .map(|(place, data_points)| (place, with(Data::Gauge(Gauge { data_points }))))
            .collect(),
        Some(Data::ExponentialHistogram(histogram)) => {
            let aggregation_temporality = histogram.aggregation_temporality;
            let of_place = |data_points| {
                Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality })
            };
            let moved = partition(&mut histogram.data_points).into_iter();
            moved.map(|(place, data_points)| (place, with(of_place(data_points)))).collect()
        }
        // The agent makes no metrics of another kind.
        _ => Vec::new(),
    }
}

/// Takes the points of each place out of `points`, without the attributes that their Resource has.
fn partition<P: Point>(points: &mut Vec<P>) -> BTreeMap<Place, Vec<P>> {
    let mut placed: BTreeMap<Place, Vec<P>> = BTreeMap::new();
    for mut point in mem::take(points) {
        let attributes = point.attributes();
        let container = take_text(attributes, names::CONTAINER_ID);
        let pod = take_text(attributes, names::K8S_POD_UID);
        if container.is_none() && pod.is_none() {
            points.push(point);
            continue;
        }
        let service =
            attributes.iter().find(|one| one.key == names::ACCEPTD_LISTENER_SERVICE).and_then(text_of);
        placed.entry(Place { container, pod, service }).or_default().push(point);
    }
    placed
}

fn take_text(attributes: &mut Vec<KeyValue>, key: &str) -> Option<String> {
    let at = attributes.iter().position(|one| one.key == key)?;
    text_of(&attributes.remove(at))
}

fn text_of(attribute: &KeyValue) -> Option<String> {
    match &attribute.value.as_ref()?.value {
        Some(Value::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}

fn has_points(metric: &Metric) -> bool {
    match &metric.data {
        Some(Data::Sum(sum)) => !sum.data_points.is_empty(),
        Some(Data::Gauge(gauge)) => !gauge.data_points.is_empty(),
        Some(Data::ExponentialHistogram(histogram)) => !histogram.data_points.is_empty(),
        _ => true,
    }
}

/// The Resource of a place: the host's attributes of the agent's Resource, and container, pod and service.
fn resource_of(place: &Place, agent: &Resource) -> Resource {
    let is_of_host = |key: &str| {
        let begins = |prefix: &&str| key.starts_with(*prefix);
        OF_THE_HOST.iter().any(begins) || !OF_THE_AGENT.iter().any(begins)
    };
    let of_host = agent.attributes.iter().filter(|attribute| is_of_host(&attribute.key)).cloned();
    let Place { container, pod, service } = place;
    let own = [(names::CONTAINER_ID, container), (names::K8S_POD_UID, pod), (names::SERVICE_NAME, service)];
    let own = own.into_iter().filter_map(|(key, value)| {
        let value = AnyValue { value: Some(Value::StringValue(value.clone()?)) };
        Some(KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() })
    });
    let of_host_entities = agent.entity_refs.iter().filter(|entity| entity.r#type == "host").cloned();
    let container_entity = container.as_ref().map(|_| EntityRef {
        schema_url: names::SCHEMA_URL.to_owned(),
        r#type: "container".to_owned(),
        id_keys: vec![names::CONTAINER_ID.to_owned()],
        description_keys: Vec::new(),
    });
    Resource {
        attributes: of_host.chain(own).collect(),
        dropped_attributes_count: 0,
        entity_refs: of_host_entities.chain(container_entity).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(key: &str, value: &str) -> KeyValue {
        let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
        KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
    }

    fn point(attributes: &[(&str, &str)]) -> NumberDataPoint {
        let attributes = attributes.iter().map(|(key, value)| text(key, value)).collect();
        NumberDataPoint { attributes, ..NumberDataPoint::default() }
    }

    fn sum(name: &str, data_points: Vec<NumberDataPoint>) -> Metric {
        let sum = Sum { data_points, aggregation_temporality: 2, is_monotonic: true };
        Metric { name: name.to_owned(), data: Some(Data::Sum(sum)), ..Metric::default() }
    }

    fn all(metrics: Vec<Metric>) -> ResourceMetrics {
        let attributes = vec![
            text(names::SERVICE_NAME, "acceptd"),
            text("process.owner", "root"),
            text("k8s.pod.name", "acceptd-x7"),
            text("k8s.node.name", "node-1"),
            text(names::HOST_NAME, "here"),
            text(names::CONTAINER_ID, "agent"),
            text("team", "web"),
        ];
        ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }
    }

    fn attribute(group: &ResourceMetrics, key: &str) -> Option<String> {
        group.resource.as_ref()?.attributes.iter().find(|one| one.key == key).and_then(text_of)
    }

    fn names_of(group: &ResourceMetrics) -> Vec<&str> {
        group
            .scope_metrics
            .iter()
            .flat_map(|scope| &scope.metrics)
            .map(|metric| metric.name.as_str())
            .collect()
    }

    #[test]
    fn each_container_has_a_resource_with_the_hosts_attributes() {
        let service = (names::ACCEPTD_LISTENER_SERVICE, "shop");
        let a = |more: (&'static str, &'static str)| point(&[service, (names::CONTAINER_ID, "a"), more]);
        let b = point(&[service, (names::CONTAINER_ID, "b"), (names::K8S_POD_UID, "p")]);
        let host = point(&[(names::ACCEPTD_LISTENER_SERVICE, "sshd")]);
        let groups = by_container(all(vec![
            sum("accepts", vec![a(("x", "1")), host, b, a(("x", "2"))]),
            sum("length", vec![a(("x", "1"))]),
        ]));
        assert_eq!(groups.len(), 3);
        assert_eq!(names_of(&groups[0]), ["accepts"], "no metric without points");
        assert_eq!(attribute(&groups[0], names::SERVICE_NAME).as_deref(), Some("acceptd"));
        let [_, a, b] = groups.as_slice() else { panic!("{groups:?}") };
        assert_eq!(names_of(a), ["accepts", "length"]);
        for (group, container, pod) in [(a, "a", None), (b, "b", Some("p"))] {
            assert_eq!(attribute(group, names::CONTAINER_ID).as_deref(), Some(container));
            assert_eq!(attribute(group, names::K8S_POD_UID).as_deref(), pod);
            assert_eq!(attribute(group, names::SERVICE_NAME).as_deref(), Some("shop"));
            assert_eq!(attribute(group, names::HOST_NAME).as_deref(), Some("here"));
            assert_eq!(attribute(group, "k8s.node.name").as_deref(), Some("node-1"));
            assert_eq!(attribute(group, "team").as_deref(), Some("web"));
            for key in ["process.owner", "k8s.pod.name"] {
                assert_eq!(attribute(group, key), None, "{key} is the agent's");
            }
        }
        let Some(Data::Sum(accepts)) = &a.scope_metrics[0].metrics[0].data else { panic!("{a:?}") };
        assert_eq!((accepts.data_points.len(), accepts.is_monotonic), (2, true));
        assert!(accepts.data_points.iter().all(|point| point.attributes.len() == 2), "{accepts:?}");
    }

    #[test]
    fn without_containers_nothing_changes() {
        let before = all(vec![sum("accepts", vec![point(&[("x", "1")])])]);
        assert_eq!(by_container(before.clone()), [before]);
    }
}
