//go:build !elastic

package main

import (
	"fmt"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/transformprocessor"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

// version is the Collector version of the modules in go.mod.
const version = "0.161.0"

// Components of minimal.yaml, demo.yaml and victorialogs.yaml, and the exporters debug and file for the
// suites.
var (
	extensions = []extension.Factory{healthcheckextension.NewFactory()}
	receivers  = []receiver.Factory{otlpreceiver.NewFactory()}
	processors = []processor.Factory{memorylimiterprocessor.NewFactory(), transformprocessor.NewFactory()}
	exporters  = []exporter.Factory{
		debugexporter.NewFactory(),
		fileexporter.NewFactory(),
		otlpexporter.NewFactory(),
		otlphttpexporter.NewFactory(),
	}
)

// components returns the factories of all components that a configuration can name.
func components() (otelcol.Factories, error) {
	factories := otelcol.Factories{Telemetry: otelconftelemetry.NewFactory()}
	var err error
	if factories.Extensions, err = otelcol.MakeFactoryMap(extensions...); err != nil {
		return otelcol.Factories{}, fmt.Errorf("extensions: %w", err)
	}
	if factories.Receivers, err = otelcol.MakeFactoryMap(receivers...); err != nil {
		return otelcol.Factories{}, fmt.Errorf("receivers: %w", err)
	}
	if factories.Processors, err = otelcol.MakeFactoryMap(processors...); err != nil {
		return otelcol.Factories{}, fmt.Errorf("processors: %w", err)
	}
	if factories.Exporters, err = otelcol.MakeFactoryMap(exporters...); err != nil {
		return otelcol.Factories{}, fmt.Errorf("exporters: %w", err)
	}
	return factories, nil
}
