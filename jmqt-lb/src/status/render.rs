//! The contents of the status page.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backends::{View, label};
use crate::mapping::Mapping;
use crate::shared::Shared;

/// A mapping and its backends as they are at one moment.
struct Snapshot {
    mapping: std::sync::Arc<Mapping>,
    backends: Vec<View>,
}

fn snapshots(shared: &Shared) -> Vec<Snapshot> {
    let mappings = shared.mappings().into_iter();
    mappings.map(|mapping| Snapshot { backends: mapping.set.views(), mapping }).collect()
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn state(view: &View) -> &'static str {
    match &view.member {
        None => "removed",
        Some(member) if !member.is_up => "down",
        Some(member) if member.is_ejected => "ejected",
        Some(_) => "up",
    }
}

/// Whether every mapping has a backend that is fit, and why not.
pub(super) fn health(shared: &Shared) -> (bool, String) {
    if shared.is_draining() {
        return (false, "draining\n".to_owned());
    }
    let is_dead = |snapshot: &Snapshot| !snapshot.backends.iter().any(|view| state(view) == "up");
    let dead: Vec<_> = snapshots(shared).into_iter().filter(is_dead).collect();
    if dead.is_empty() {
        return (true, "ok\n".to_owned());
    }
    let names: Vec<_> = dead.iter().map(|snapshot| snapshot.mapping.name.clone()).collect();
    (false, format!("no backend is up: {}\n", names.join(", ")))
}

/// For people.
pub(super) fn overview(shared: &Shared) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_overview(&mut text, shared);
    text
}

fn write_overview(text: &mut String, shared: &Shared) -> fmt::Result {
    let state_of_all = if shared.is_draining() { "draining" } else { "running" };
    writeln!(
        text,
        "jmqt-lb {}, {state_of_all}, {} connections, {} threads",
        env!("CARGO_PKG_VERSION"),
        shared.gate.inside(),
        shared.workers.count(),
    )?;
    for Snapshot { mapping, backends } in snapshots(shared) {
        let counters = &mapping.counters;
        writeln!(
            text,
            "\n{}: {} connections, {} accepted, {} retries, {} without a backend, {} idle too long",
            mapping.name,
            mapping.gate.inside(),
            read(&counters.accepted),
            read(&counters.retries),
            read(&counters.refused),
            read(&counters.idle),
        )?;
        writeln!(
            text,
            "  {:<8} {:>6} {:>7} {:>9} {:>8} {:>9} {:>15} {:>15}  backend",
            "state", "weight", "active", "total", "failed", "ejections", "bytes to", "bytes from"
        )?;
        for view in backends {
            let counters = &view.backend.counters;
            writeln!(
                text,
                "  {:<8} {:>6} {:>7} {:>9} {:>8} {:>9} {:>15} {:>15}  {}",
                state(&view),
                view.member.as_ref().map_or(0, |member| member.weight),
                view.backend.active(),
                read(&counters.connections),
                read(&counters.failures),
                read(&counters.ejections),
                counters.bytes_to.sum(),
                counters.bytes_from.sum(),
                label(&view.backend),
            )?;
        }
    }
    Ok(())
}

/// For Prometheus, in its text format 0.0.4.
pub(super) fn metrics(shared: &Shared) -> String {
    let mut page = Metrics(String::new());
    let snapshots = snapshots(shared);
    let none = String::new();
    let counters = &shared.counters;
    page.family("connections", "gauge", "Connections now.", [(&none, shared.gate.inside() as u64)]);
    page.family("draining", "gauge", "1 while stopping.", [(&none, shared.is_draining().into())]);
    page.family("reloads_total", "counter", "Reloads that took effect.", [(&none, read(&counters.reloads))]);
    page.family(
        "reloads_failed_total",
        "counter",
        "Reloads that kept the old configuration.",
        [(&none, read(&counters.failed_reloads))],
    );
    page.mappings(&snapshots);
    page.backends(&snapshots);
    page.0
}

struct Metrics(String);

impl Metrics {
    /// All values of one name, each with its labels.
    fn family<L: AsRef<str>>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP jmqt_lb_{name} {help}\n# TYPE jmqt_lb_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.0, "jmqt_lb_{name}{} {value}", labels.as_ref());
        }
    }

    fn mappings(&mut self, snapshots: &[Snapshot]) {
        let mut family = |name: &str, kind: &str, help: &str, value: fn(&Mapping) -> u64| {
            let values = snapshots.iter().map(|Snapshot { mapping, .. }| {
                (format!("{{mapping=\"{}\"}}", mapping.name), value(mapping))
            });
            self.family(&format!("mapping_{name}"), kind, help, values);
        };
        family("connections", "gauge", "Connections now.", |mapping| mapping.gate.inside() as u64);
        family("accepted_total", "counter", "Connections accepted.", |mapping| {
            read(&mapping.counters.accepted)
        });
        family("retries_total", "counter", "Tries of a further backend.", |mapping| {
            read(&mapping.counters.retries)
        });
        family("refused_total", "counter", "Connections without a backend.", |mapping| {
            read(&mapping.counters.refused)
        });
        family("idle_total", "counter", "Connections closed by the idle timeout.", |mapping| {
            read(&mapping.counters.idle)
        });
    }

    fn backends(&mut self, snapshots: &[Snapshot]) {
        let mut family = |name: &str, kind: &str, help: &str, value: fn(&View) -> Option<u64>| {
            let values = snapshots.iter().flat_map(|Snapshot { mapping, backends }| {
                let values = backends.iter().filter_map(move |view| Some((view, value(view)?)));
                values.map(|(view, value)| (labels(mapping, view), value))
            });
            self.family(&format!("backend_{name}"), kind, help, values);
        };
        // A removed backend has connections, but no state that an alert could be based on.
        family("up", "gauge", "1 if it gets connections.", |view| {
            view.member.as_ref().map(|_| (state(view) == "up").into())
        });
        family("ejected", "gauge", "1 while ejected after failures.", |view| {
            view.member.as_ref().map(|member| member.is_ejected.into())
        });
        family("weight", "gauge", "Its weight.", |view| {
            view.member.as_ref().map(|member| member.weight.into())
        });
        family("connections", "gauge", "Connections now.", |view| Some(view.backend.active() as u64));
        family("connections_total", "counter", "Connections tried.", |view| {
            Some(read(&view.backend.counters.connections))
        });
        family(
            "repeated_total",
            "counter",
            "Attempts to connect that were repeated because there was no answer for longer than usual.",
            |view| Some(read(&view.backend.counters.repeated)),
        );
        family("failures_total", "counter", "Connections failed.", |view| {
            Some(read(&view.backend.counters.failures))
        });
        family("ejections_total", "counter", "Ejections.", |view| {
            Some(read(&view.backend.counters.ejections))
        });
        family("bytes_to_total", "counter", "Bytes sent to it.", |view| {
            Some(view.backend.counters.bytes_to.sum())
        });
        family("bytes_from_total", "counter", "Bytes received from it.", |view| {
            Some(view.backend.counters.bytes_from.sum())
        });
    }
}

/// Names of hosts and addresses contain nothing to escape.
fn labels(mapping: &Mapping, view: &View) -> String {
    format!(
        "{{mapping=\"{}\",backend=\"{}\",address=\"{}\"}}",
        mapping.name, view.backend.name, view.backend.address
    )
}
