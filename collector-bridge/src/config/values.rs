//! The kinds of lists: values of filters, names of hooks, and choices of several values. A list of a filter
//! holds at most as many values as a filter's BPF map.

use acceptd_common::limits::FILTER_VALUES;
use acceptd_otlp::names;

use super::{
    choice::{Named, find, name_of, names_of},
    hook_names::HOOK_NAMES,
    kind::{Names, ValueKind},
    raw::Raw,
};

/// A list of numbers from `.0` to `.1`; in a variable or a flag, separated by commas.
pub(super) struct Numbers(pub(super) u64, pub(super) u64);

impl ValueKind<Vec<u64>> for Numbers {
    fn expects(&self) -> String {
        format!("a list of at most {FILTER_VALUES} whole numbers from {} to {}", self.0, self.1)
    }

    fn read(&self, raw: &Raw) -> Result<Vec<u64>, String> {
        if let Some(list) = raw.toml_list()? {
            return self.read(&list);
        }
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
        let numbers = numbers.filter(|numbers| numbers.iter().all(in_range) && fits_in_map(numbers.len()));
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

/// A list of texts of at most `longest` bytes; in a variable or a flag, separated by commas.
pub(super) struct Texts {
    /// A plural noun for the texts, for messages.
    pub(super) what: &'static str,
    pub(super) longest: usize,
}

impl ValueKind<Vec<String>> for Texts {
    fn expects(&self) -> String {
        format!("a list of at most {FILTER_VALUES} {} of at most {} bytes", self.what, self.longest)
    }

    fn read(&self, raw: &Raw) -> Result<Vec<String>, String> {
        let list = raw.toml_list()?;
        let texts =
            Names.read(list.as_ref().unwrap_or(raw)).map_err(|_| format!("expected {}", self.expects()))?;
        if let Some(long) = texts.iter().find(|text| text.len() > self.longest) {
            return Err(self.unfit(long));
        }
        if fits_in_map(texts.len()) { Ok(texts) } else { Err(format!("expected {}", self.expects())) }
    }

    fn write(&self, value: &Vec<String>) -> toml::Value {
        value.clone().into()
    }
}

/// An address family whose accepts can be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// UNIX sockets.
    Unix,
    /// IPv4 sockets.
    Inet,
    /// IPv6 sockets, including those with IPv4-mapped addresses.
    Inet6,
    /// VSOCK.
    Vsock,
}

impl Family {
    /// The kernel's number of the family (`AF_…`, include/linux/socket.h).
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

/// An attribute of a process's Resource that is only sent if `resource.include` names it.
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

/// A list of values of a [`Named`] set.
pub(super) struct SomeOf;

impl<T: Named> ValueKind<Vec<T>> for SomeOf {
    fn expects(&self) -> String {
        format!("a list of {}", joined_names::<T>())
    }

    fn read(&self, raw: &Raw) -> Result<Vec<T>, String> {
        let list = raw.toml_list()?;
        let raw = list.as_ref().unwrap_or(raw);
        let names = Names.read(raw).map_err(|_| ValueKind::<Vec<T>>::mismatch(self, raw))?;
        let known = |name: &String| {
            find(name).ok_or_else(|| format!("{name:?} is not one of {}", joined_names::<T>()))
        };
        names.iter().map(known).collect()
    }

    fn write(&self, value: &Vec<T>) -> toml::Value {
        value.iter().map(|value| name_of(*value)).collect::<Vec<_>>().into()
    }
}

fn joined_names<T: Named>() -> String {
    names_of::<T>().collect::<Vec<_>>().join(", ")
}

/// A list of names of eBPF programs.
pub(super) struct HookNames;

impl ValueKind<Vec<String>> for HookNames {
    fn expects(&self) -> String {
        "a list of programs".to_owned()
    }

    fn read(&self, raw: &Raw) -> Result<Vec<String>, String> {
        let list = raw.toml_list()?;
        let raw = list.as_ref().unwrap_or(raw);
        let names = Names.read(raw).map_err(|_| self.mismatch(raw))?;
        match names.iter().find(|name| !HOOK_NAMES.contains(&name.as_str())) {
            Some(unknown) => {
                let known = HOOK_NAMES.join(", ");
                Err(format!("{unknown:?} is not a program; the programs are {known}"))
            }
            None => Ok(names),
        }
    }

    fn write(&self, value: &Vec<String>) -> toml::Value {
        value.clone().into()
    }
}

fn fits_in_map(count: usize) -> bool {
    count <= FILTER_VALUES as usize
}
