// Prometheus 3.16, whose module has the number 0.316. Without its web page, which is not part of the module.
module acceptd.test/prometheus

go 1.26.7

require github.com/prometheus/prometheus v0.316.0
