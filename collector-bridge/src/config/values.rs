//! Lists of what a filter compares: at most as many values as the kernel's map has room for.

use std::collections::BTreeSet;

use acceptd_common::limits::FILTER_VALUES;
use acceptd_otlp::names;

use super::{
    kind::{Kind, Names},
    raw::Raw,
};
use crate::bpf::hooks;

/// Numbers from `.0` to `.1`; in a variable or a flag separated by commas.
pub(super) struct Numbers(pub(super) u64, pub(super) u64);

impl Kind<Vec<u64>> for Numbers {
    fn expects(&self) -> String {
        format!("a list of at most {FILTER_VALUES} whole numbers from {} to {}", self.0, self.1)
    }

    fn read(&self, raw: &Raw) -> Result<Vec<u64>, String> {
        let in_range = |number: &u64| (self.0..=self.1).contains(number);
        let numbers: Option<Vec<u64>> = match raw {
            Raw::Integer(number) => u64::try_from(*number).ok().map(|number| vec![number]),
            Raw::Word(word) => {
                let pieces = word.split(',').map(str::trim).filter(|piece| !piece.is_empty());
                pieces.map(|piece| piece.parse().ok()).collect()
            }
            Raw::List(items) => items
                .iter()
                .map(|item| match item {
                    Raw::Integer(number) => u64::try_from(*number).ok(),
                    _ => None,
                })
                .collect(),
            _ => return Err(self.mismatch(raw)),
        };
        let numbers = numbers.filter(|numbers| numbers.iter().all(in_range) && few(numbers.len()));
        numbers.ok_or_else(|| match raw {
            Raw::Word(word) => self.unfit(word),
            Raw::Integer(number) => self.unfit(number),
            _ => format!("expected {}", self.expects()),
        })
    }

    fn write(&self, value: &Vec<u64>) -> toml::Value {
        value.iter().map(|number| i64::try_from(*number).unwrap_or(i64::MAX)).collect::<Vec<_>>().into()
    }
}

/// Texts of at most `longest` bytes; in a variable or a flag separated by commas.
pub(super) struct Texts {
    pub(super) what: &'static str,
    pub(super) longest: usize,
}

impl Kind<Vec<String>> for Texts {
    fn expects(&self) -> String {
        format!("a list of at most {FILTER_VALUES} {} of at most {} bytes", self.what, self.longest)
    }

    fn read(&self, raw: &Raw) -> Result<Vec<String>, String> {
        let texts = Names.read(raw).map_err(|_| format!("expected {}", self.expects()))?;
        if let Some(long) = texts.iter().find(|text| text.len() > self.longest) {
            return Err(self.unfit(long));
        }
        if few(texts.len()) { Ok(texts) } else { Err(format!("expected {}", self.expects())) }
    }

    fn write(&self, value: &Vec<String>) -> toml::Value {
        value.clone().into()
    }
}

/// An address family whose accepts are records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// UNIX sockets.
    Unix,
    /// IPv4 sockets.
    Inet,
    /// IPv6 sockets, also when they carry IPv4.
    Inet6,
    /// VSOCK.
    Vsock,
}

impl Family {
    /// `AF_…` of include/linux/socket.h.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Unix => 1,
            Self::Inet => 2,
            Self::Inet6 => 10,
            Self::Vsock => 40,
        }
    }
}

impl Named for Family {
    const ALL: &'static [(&'static str, Self)] =
        &[("inet", Self::Inet), ("inet6", Self::Inet6), ("unix", Self::Unix), ("vsock", Self::Vsock)];
}

/// An attribute of a process's Resource that is only told when it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// `process.command`
    Command,
    /// `process.command_args`
    CommandArgs,
    /// `process.args_count`
    ArgsCount,
    /// `process.parent_pid`
    ParentPid,
}

impl Named for Detail {
    const ALL: &'static [(&'static str, Self)] = &[
        (names::PROCESS_COMMAND, Self::Command),
        (names::PROCESS_COMMAND_ARGS, Self::CommandArgs),
        (names::PROCESS_ARGS_COUNT, Self::ArgsCount),
        (names::PROCESS_PARENT_PID, Self::ParentPid),
    ];
}

/// Something of which there are a few, each with a name.
pub(super) trait Named: Copy + PartialEq + 'static {
    /// All of them.
    const ALL: &'static [(&'static str, Self)];
}

/// Some of these, by name.
pub(super) struct SomeOf;

impl<T: Named> Kind<Vec<T>> for SomeOf {
    fn expects(&self) -> String {
        format!("a list of {}", all::<T>())
    }

    fn read(&self, raw: &Raw) -> Result<Vec<T>, String> {
        let names = Names.read(raw).map_err(|_| Kind::<Vec<T>>::mismatch(self, raw))?;
        let known = |name: &String| {
            let found = T::ALL.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| *value).ok_or_else(|| format!("{name:?} is none of {}", all::<T>()))
        };
        names.iter().map(known).collect()
    }

    fn write(&self, value: &Vec<T>) -> toml::Value {
        let name = |value: &T| T::ALL.iter().find(|(_, known)| known == value).map_or("", |(name, _)| *name);
        value.iter().map(name).collect::<Vec<_>>().into()
    }
}

fn all<T: Named>() -> String {
    T::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// Names of programs.
pub(super) struct HookNames;

impl Kind<Vec<String>> for HookNames {
    fn expects(&self) -> String {
        "a list of programs".to_owned()
    }

    fn read(&self, raw: &Raw) -> Result<Vec<String>, String> {
        let names = Names.read(raw).map_err(|_| self.mismatch(raw))?;
        match names.iter().find(|name| !hooks::names().any(|known| known == *name)) {
            Some(unknown) => {
                let known: BTreeSet<_> = hooks::names().collect();
                let known = known.into_iter().collect::<Vec<_>>().join(", ");
                Err(format!("{unknown:?} is no program; there are {known}"))
            }
            None => Ok(names),
        }
    }

    fn write(&self, value: &Vec<String>) -> toml::Value {
        value.clone().into()
    }
}

fn few(count: usize) -> bool {
    count <= FILTER_VALUES as usize
}
