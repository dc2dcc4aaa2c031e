//! A spec from a few words: `group eu 8 relays=2 upstreams=core zones=a,b`.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::api::{ReplicaTopologySpec, spec_faults};

/// The words of a spec so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    groups: Vec<Value>,
    settings: Map<String, Value>,
    words: Vec<String>,
}

impl Shape {
    /// Adds a group: its name, how many hosts it has, and `keyword=value` pairs of the fields of a group; `zones` are
    /// given to its hosts in turn.
    ///
    /// # Errors
    /// Words that are not understood; the spec is as before then.
    pub fn group(&mut self, words: &[&str]) -> Result<(), String> {
        self.change(|this| this.add_group(words))
    }

    fn add_group(&mut self, words: &[&str]) -> Result<(), String> {
        let [name, size, fields @ ..] = words else { return Err("group NAME SIZE [FIELD=VALUE...]".to_owned()) };
        let size: usize = size.parse().map_err(|_| format!("{size:?} is no number"))?;
        let mut group = json!({"name": name});
        let mut zones: Vec<&str> = Vec::new();
        for field in fields {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("{field:?} is not FIELD=VALUE"))?;
            match key {
                "zones" => zones = value.split(',').collect(),
                "upstreams" => group[key] = json!(value.split(',').collect::<Vec<_>>()),
                _ => group[key] = scalar(value),
            }
        }
        let host = |i: usize| {
            let host = format!("{name}-{}", i + 1);
            let zone = zones.get(i % zones.len().max(1));
            zone.map_or_else(
                || json!({"name": host, "address": host}),
                |z| json!({"name": host, "address": host, "zone": z}),
            )
        };
        group["hosts"] = (0..size).map(host).collect();
        self.groups.push(group);
        self.words.push(format!("group {name} {size} {}", fields.join(" ")));
        Ok(())
    }

    /// Sets a field of the spec: `healing.settleSeconds 10`.
    ///
    /// # Errors
    /// Words that are not understood; the spec is as before then.
    pub fn set(&mut self, words: &[&str]) -> Result<(), String> {
        self.change(|this| this.add_setting(words))
    }

    fn add_setting(&mut self, words: &[&str]) -> Result<(), String> {
        let [path, value] = words else { return Err("set PATH VALUE".to_owned()) };
        match path.split_once('.') {
            Some((section, field)) => {
                let section = self.settings.entry(section).or_insert_with(|| json!({}));
                section[field] = scalar(value);
            }
            None => drop(self.settings.insert((*path).to_owned(), scalar(value))),
        }
        self.words.push(format!("set {path} {value}"));
        Ok(())
    }

    /// Takes a host out of its group.
    ///
    /// # Errors
    /// There is no such host.
    pub fn remove(&mut self, node: &str) -> Result<(), String> {
        let hosts = || self.groups.iter().filter_map(|group| group["hosts"].as_array()).flatten();
        let names: Vec<&str> = hosts().filter_map(|host| host["name"].as_str()).collect();
        if !names.contains(&node) {
            return Err(format!("there is no server {node:?}: use one of {}", names.join(", ")));
        }
        for hosts in self.groups.iter_mut().filter_map(|group| group["hosts"].as_array_mut()) {
            hosts.retain(|host| host["name"] != node);
        }
        Ok(())
    }

    /// Does it, or leaves all as it was when a spec cannot say that.
    fn change(&mut self, act: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let mut changed = self.clone();
        act(&mut changed)?;
        if let Some(fault) = spec_faults(&changed.value()).first() {
            return Err(fault.to_string());
        }
        changed.spec()?;
        *self = changed;
        Ok(())
    }

    fn value(&self) -> Value {
        let mut spec = self.settings.clone();
        spec.insert("groups".to_owned(), self.groups.clone().into());
        Value::Object(spec)
    }

    /// The spec.
    ///
    /// # Errors
    /// Values of another kind than a spec has there.
    pub fn spec(&self) -> Result<ReplicaTopologySpec, String> {
        serde_json::from_value(self.value()).map_err(|error| error.to_string())
    }
}

impl fmt::Display for Shape {
    /// The commands that make it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.iter().try_for_each(|words| writeln!(f, "> {}", words.trim_end()))
    }
}

fn scalar(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}
