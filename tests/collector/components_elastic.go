//go:build elastic

package main

import (
	"fmt"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/elasticsearchexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/healthcheckextension"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/transformprocessor"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
)

// version is the Collector version of the modules in elastic.mod, which elastic.yaml is written for.
const version = "0.120.0"

// components returns the factories of the components that elastic.yaml names.
func components() (otelcol.Factories, error) {
	var factories otelcol.Factories
	var err error
	if factories.Extensions, err = extension.MakeFactoryMap(healthcheckextension.NewFactory()); err != nil {
		return otelcol.Factories{}, fmt.Errorf("extensions: %w", err)
	}
	if factories.Receivers, err = receiver.MakeFactoryMap(otlpreceiver.NewFactory()); err != nil {
		return otelcol.Factories{}, fmt.Errorf("receivers: %w", err)
	}
	if factories.Processors, err = processor.MakeFactoryMap(
		memorylimiterprocessor.NewFactory(),
		transformprocessor.NewFactory(),
	); err != nil {
		return otelcol.Factories{}, fmt.Errorf("processors: %w", err)
	}
	if factories.Exporters, err = exporter.MakeFactoryMap(elasticsearchexporter.NewFactory()); err != nil {
		return otelcol.Factories{}, fmt.Errorf("exporters: %w", err)
	}
	return factories, nil
}
