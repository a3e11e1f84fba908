//! The text of metrics: the format of Prometheus (version 0.0.4), and OpenMetrics 1.0.

use std::fmt::Write as _;

use crate::counters::Histogram;

/// The language of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// What an `Accept` asks for.
    pub(super) fn accepted(accept: &str) -> Self {
        let names = |kind: &str| {
            accept.split(',').any(|range| range.split(';').next().is_some_and(|it| it.trim() == kind))
        };
        if names("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The unit of a histogram, which counts integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Shown in seconds.
    Microseconds,
    One,
}

impl Unit {
    fn shown(self, value: u64) -> String {
        match self {
            Self::One => value.to_string(),
            // Exact, unlike a division of floating-point numbers.
            Self::Microseconds => format!("{}.{:06}", value / 1_000_000, value % 1_000_000),
        }
    }

    fn bound(self, value: u64) -> String {
        let shown = self.shown(value);
        match shown.contains('.') {
            true => shown.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => shown,
        }
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// A text with metrics.
pub(super) struct Text {
    format: Format,
    text: String,
    /// The metric whose values follow.
    name: &'static str,
}

impl Text {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::with_capacity(32 * 1024), name: "" }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn head(&mut self, name: &'static str, kind: &str, help: &str) {
        let family = match (self.format, kind) {
            (Format::OpenMetrics, "counter") => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let help = help.trim().replace('\\', "\\\\").replace('\n', "\\n");
        self.name = name;
        // Writing to a `String` does not fail.
        let _ = write!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}\n");
    }

    /// Begins a metric whose values only rise. Its name ends with `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> &mut Self {
        self.head(name, "counter", help);
        self
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> &mut Self {
        self.head(name, "gauge", help);
        self
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &str) -> &mut Self {
        self.head(name, "histogram", help);
        self
    }

    /// A value of the metric that was begun.
    pub(super) fn value(&mut self, labels: Labels<'_>, value: impl std::fmt::Display) -> &mut Self {
        self.sample("", labels, None, &value.to_string());
        self
    }

    /// The buckets of the histogram that was begun.
    pub(super) fn buckets(&mut self, labels: Labels<'_>, unit: Unit, histogram: &Histogram) -> &mut Self {
        let (buckets, sum) = histogram.values();
        let mut all = 0;
        for (bound, count) in buckets {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| unit.bound(bound));
            self.sample("_bucket", labels, Some(&bound), &count.to_string());
            all = count;
        }
        self.sample("_sum", labels, None, &unit.shown(sum));
        self.sample("_count", labels, None, &all.to_string());
        self
    }

    fn sample(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: &str) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut before = '{';
        for (name, value) in labels {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{before}{name}=\"{value}\"");
            before = ',';
        }
        let _ = writeln!(self.text, "{}{value}", if before == ',' { "} " } else { " " });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Measures;
    use std::time::Duration;

    #[test]
    fn values_labels_and_buckets_are_written_as_prometheus_reads_them() {
        let measures = Measures::default();
        measures.commits.time(Duration::from_micros(100));
        measures.commits.time(Duration::from_micros(1_500_001));
        let mut text = Text::new(Format::Prometheus);
        text.counter("a_total", "one\ntwo \\").value(&[("x", "\"\\\n"), ("y", "1")], 7);
        text.gauge("b", " about b").value(&[], 1.5);
        text.histogram("c_seconds", "c").buckets(&[("v", "w")], Unit::Microseconds, &measures.commits);
        let text = text.finish();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..8],
            [
                "# HELP a_total one\\ntwo \\\\",
                "# TYPE a_total counter",
                "a_total{x=\"\\\"\\\\\\n\",y=\"1\"} 7",
                "# HELP b about b",
                "# TYPE b gauge",
                "b 1.5",
                "# HELP c_seconds c",
                "# TYPE c_seconds histogram",
            ]
        );
        assert_eq!(lines[8], "c_seconds_bucket{v=\"w\",le=\"0.0001\"} 1");
        assert!(
            text.contains("c_seconds_bucket{v=\"w\",le=\"1\"} 1\nc_seconds_bucket{v=\"w\",le=\"2.5\"} 2\n"),
            "{text}"
        );
        assert!(
            text.ends_with("le=\"+Inf\"} 2\nc_seconds_sum{v=\"w\"} 1.500101\nc_seconds_count{v=\"w\"} 2\n"),
            "{text}"
        );
    }

    #[test]
    fn open_metrics_names_families_without_total_and_marks_the_end() {
        let mut text = Text::new(Format::OpenMetrics);
        text.counter("a_total", "a").value(&[], 7);
        assert_eq!(text.finish(), "# HELP a a\n# TYPE a counter\na_total 7\n# EOF\n");
        assert_eq!(
            Format::accepted("text/html, application/openmetrics-text;version=1.0.0;q=0.5"),
            Format::OpenMetrics
        );
        assert_eq!(Format::accepted("text/plain;version=0.0.4, */*"), Format::Prometheus);
        assert_eq!(Format::accepted(""), Format::Prometheus);
    }
}
