// VictoriaLogs 1.51, with its web page, which is part of the module.
module acceptd.test/victoria-logs

go 1.26.4

require github.com/VictoriaMetrics/VictoriaLogs v1.51.1-0.20260624061259-dc94972a8708

// VictoriaLogs and VictoriaMetrics require commits of each other; these releases are compatible.
replace (
	github.com/VictoriaMetrics/VictoriaLogs => github.com/VictoriaMetrics/VictoriaLogs v1.51.1-0.20260624061259-dc94972a8708
	github.com/VictoriaMetrics/VictoriaMetrics => github.com/VictoriaMetrics/VictoriaMetrics v1.146.0
)
