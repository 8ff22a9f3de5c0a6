//go:build contrib

package main

import (
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/kafkaexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/loadbalancingexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/k8sattributesprocessor"
	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/kafkareceiver"
)

// What else kubernetes.yaml, gateway/ and kafka/ name. The parts for Kafka are of 0.155: those of 0.161 need a module, pkg/kafka/topic
// v0.161.0, that could not be fetched.
func init() {
	extensions = append(extensions, filestorage.NewFactory())
	receivers = append(receivers, kafkareceiver.NewFactory())
	processors = append(processors, k8sattributesprocessor.NewFactory())
	exporters = append(exporters, kafkaexporter.NewFactory(), loadbalancingexporter.NewFactory())
}
