//go:build contrib

package main

import (
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/kafkaexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/loadbalancingexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/k8sattributesprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/kafkareceiver"
)

// Further components of kubernetes.yaml, gateway/ and kafka/. Kafka's are of version 0.155, because those of
// 0.161 need the module pkg/kafka/topic v0.161.0, which the module proxy did not serve.
func init() {
	extensions = append(extensions, filestorage.NewFactory())
	receivers = append(receivers, kafkareceiver.NewFactory())
	processors = append(processors, k8sattributesprocessor.NewFactory())
	exporters = append(exporters, kafkaexporter.NewFactory(), loadbalancingexporter.NewFactory())
}
