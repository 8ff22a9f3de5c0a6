//go:build !elastic

package main

import (
	"fmt"

	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"
)

// components lists what a configuration can name.
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
