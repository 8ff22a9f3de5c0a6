//! Splits a request in two. The requests of all three signals have the same shape, so the items need not be
//! decoded.

use bytes::Bytes;
use prost::Message;

/// `ExportLogsServiceRequest`, `ExportTraceServiceRequest` or `ExportMetricsServiceRequest`.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceItems>,
}

/// `ResourceLogs`, `ResourceSpans` or `ResourceMetrics`.
#[derive(Clone, PartialEq, Message)]
struct ResourceItems {
    #[prost(bytes = "bytes", optional, tag = "1")]
    resource: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeItems>,
    #[prost(bytes = "bytes", tag = "3")]
    schema_url: Bytes,
}

/// `ScopeLogs`, `ScopeSpans` or `ScopeMetrics`.
#[derive(Clone, PartialEq, Message)]
struct ScopeItems {
    #[prost(bytes = "bytes", optional, tag = "1")]
    scope: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    items: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "3")]
    schema_url: Bytes,
}

/// Splits a request into two with half of the items each, and returns each with the number of its items.
/// Resources and scopes are copied into both halves where both have items of them. `None` if there are fewer
/// than two items, or the request cannot be decoded.
pub(crate) fn halves(request: Bytes) -> Option<[(Bytes, u32); 2]> {
    let request = Request::decode(request).ok()?;
    let scopes = request.resources.iter().flat_map(|resource| &resource.scopes);
    let all: usize = scopes.map(|scope| scope.items.len()).sum();
    if all < 2 {
        return None;
    }
    let mut wanted = all / 2;
    let (mut first, mut second) = (Request::default(), Request::default());
    for resource in request.resources {
        for mut scope in resource.scopes {
            let rest = scope.items.split_off(wanted.min(scope.items.len()));
            wanted -= scope.items.len();
            for (half, items) in [(&mut first, scope.items), (&mut second, rest)] {
                if !items.is_empty() {
                    half.resources.push(ResourceItems {
                        resource: resource.resource.clone(),
                        schema_url: resource.schema_url.clone(),
                        scopes: vec![ScopeItems {
                            scope: scope.scope.clone(),
                            schema_url: scope.schema_url.clone(),
                            items,
                        }],
                    });
                }
            }
        }
    }
    let count = |items: usize| u32::try_from(items).unwrap_or(u32::MAX);
    let encoded = |half: &Request| Bytes::from(half.encode_to_vec());
    Some([(encoded(&first), count(all / 2)), (encoded(&second), count(all - all / 2))])
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::InstrumentationScope,
        resource::v1::Resource,
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };
    use proptest::prelude::*;

    use super::*;

    /// A request with one Resource for each of `counts`, which has that many spans. The spans are numbered
    /// from 0.
    fn traces(counts: &[usize]) -> ExportTraceServiceRequest {
        let mut numbers = 0_u64..;
        let mut spans = |count| {
            numbers
                .by_ref()
                .take(count)
                .map(|start_time_unix_nano| Span { start_time_unix_nano, ..Span::default() })
                .collect()
        };
        let resource_spans = |(index, count): (usize, &usize)| ResourceSpans {
            resource: Some(Resource {
                dropped_attributes_count: u32::try_from(index).unwrap(),
                ..Resource::default()
            }),
            schema_url: "resource".to_owned(),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "scope".to_owned(),
                    ..InstrumentationScope::default()
                }),
                schema_url: "scope".to_owned(),
                spans: spans(*count),
            }],
        };
        ExportTraceServiceRequest { resource_spans: counts.iter().enumerate().map(resource_spans).collect() }
    }

    /// Whether any scope has no spans.
    fn has_empty(request: &[u8]) -> bool {
        let request = ExportTraceServiceRequest::decode(request).unwrap();
        request
            .resource_spans
            .iter()
            .flat_map(|resource| &resource.scope_spans)
            .any(|scope| scope.spans.is_empty())
    }

    /// The number of the Resource and of the span, for each span. Checks the Resources and scopes, too.
    fn spans(request: &[u8]) -> Vec<(u32, u64)> {
        let request = ExportTraceServiceRequest::decode(request).unwrap();
        let mut found = Vec::new();
        for of_resource in request.resource_spans {
            assert_eq!(of_resource.schema_url, "resource");
            for of_scope in of_resource.scope_spans {
                assert_eq!(
                    (of_scope.schema_url.as_str(), of_scope.scope.unwrap().name.as_str()),
                    ("scope", "scope")
                );
                let number = of_resource.resource.as_ref().unwrap().dropped_attributes_count;
                found.extend(of_scope.spans.iter().map(|span| (number, span.start_time_unix_nano)));
            }
        }
        found
    }

    proptest! {
        #[test]
        fn halves_hold_every_item_once_and_in_order(counts in prop::collection::vec(0_usize..6, 0..6)) {
            let whole = traces(&counts);
            let bytes = Bytes::from(whole.encode_to_vec());
            let all = spans(&bytes);
            match halves(bytes) {
                None => prop_assert!(all.len() < 2),
                Some([(first, in_first), (second, in_second)]) => {
                    prop_assert!(!has_empty(&first) && !has_empty(&second));
                    let (mut one, two) = (spans(&first), spans(&second));
                    prop_assert_eq!((one.len(), two.len()), (in_first as usize, in_second as usize));
                    prop_assert!(two.len() - one.len() <= 1);
                    one.extend(two);
                    prop_assert_eq!(one, all);
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_not_a_request_cannot_be_split() {
        assert_eq!(halves(Bytes::from_static(b"\xff\xff\xff")), None);
    }
}
