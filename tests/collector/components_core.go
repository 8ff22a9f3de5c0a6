//go:build !contrib && !elastic

package main

import (
	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

// version is that of the Collector whose parts go.mod has.
const version = "0.165.0"

// otlp in, debug, otlp and file out, health_check to wait for the start.
var (
	extensions = []extension.Factory{healthcheckextension.NewFactory()}
	receivers  = []receiver.Factory{otlpreceiver.NewFactory()}
	processors []processor.Factory
	exporters  = []exporter.Factory{
		debugexporter.NewFactory(),
		otlpexporter.NewFactory(),
		fileexporter.NewFactory(),
	}
)
