//! A metric as a value: its name, what it is, and its samples. Pure.

#![forbid(unsafe_code)]

use prometheus::proto;

/// What its numbers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They only grow.
    Counter,
    /// They come and go.
    Gauge,
}

/// All samples of one name.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Vec<(&'static str, String)>, f64)>,
}

impl Family {
    pub(super) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Counter, samples: Vec::new() }
    }

    pub(super) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: Kind::Gauge, samples: Vec::new() }
    }

    /// The same with one sample that needs no label.
    pub(super) fn of(self, value: f64) -> Self {
        self.with([], value)
    }

    /// The same with another sample.
    pub(super) fn with<const N: usize>(mut self, labels: [(&'static str, &str); N], value: f64) -> Self {
        let labels = labels.map(|(name, value)| (name, value.to_owned()));
        self.samples.push((labels.into(), value));
        self
    }

    /// Whether it has no sample.
    pub(super) fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// As the library writes it. Names are not checked there, so a test does.
    pub(super) fn into_proto(self) -> proto::MetricFamily {
        let Self { name, help, kind, samples } = self;
        let mut family = proto::MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(match kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
        });
        family.set_metric(samples.into_iter().map(|(labels, value)| sample(kind, labels, value)).collect());
        family
    }
}

fn sample(kind: Kind, labels: Vec<(&'static str, String)>, value: f64) -> proto::Metric {
    let pair = |(name, value): (&str, String)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    };
    let mut metric = proto::Metric::from_label(labels.into_iter().map(pair).collect());
    match kind {
        Kind::Counter => {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
    }
    metric
}
