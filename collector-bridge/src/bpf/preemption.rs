//! The kernel's preemption model. Where the kernel may preempt a task inside a program, it skips that program
//! for every other task of the same CPU until the first one runs on (recursion protection).

mod evidence;

use std::fmt;

use evidence::Evidence;
use serde::{Deserialize, Serialize};

/// When the kernel preempts a task that runs in the kernel (`kernel/Kconfig.preempt`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Preemption {
    /// Never.
    None,
    /// Where its code offers to, which no program does.
    Voluntary,
    /// One of the two above.
    NoneOrVoluntary,
    /// Anywhere, but mostly only when its time slice has ended.
    Lazy,
    /// Anywhere, as soon as a task with a better claim to the CPU is ready.
    Full,
    /// One of the two above.
    LazyOrFull,
    /// Anywhere, even while it holds a spinlock (`PREEMPT_RT`).
    RealTime,
    /// The kernel supports several models, and which one it uses could not be read.
    #[default]
    Unknown,
}

impl Preemption {
    /// Whether a task may be preempted inside a program. An unknown model counts as such.
    #[must_use]
    pub(crate) fn may_skip_programs(self) -> bool {
        match self {
            Self::None | Self::Voluntary | Self::NoneOrVoluntary => false,
            Self::Lazy | Self::Full | Self::LazyOrFull | Self::RealTime | Self::Unknown => true,
        }
    }

    /// The model with this name, in the kernel's parameter `preempt` and in debugfs.
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "voluntary" => Self::Voluntary,
            "lazy" => Self::Lazy,
            "full" => Self::Full,
            _ => return None,
        })
    }
}

impl fmt::Display for Preemption {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::None => "none",
            Self::Voluntary => "voluntary",
            Self::NoneOrVoluntary => "none or voluntary",
            Self::Lazy => "lazy",
            Self::Full => "full",
            Self::LazyOrFull => "lazy or full",
            Self::RealTime => "real-time",
            Self::Unknown => "unknown",
        })
    }
}

/// The model of the running kernel.
#[must_use]
pub(crate) fn model() -> Preemption {
    decide(&Evidence::gather())
}

/// The model that follows from the evidence.
fn decide(evidence: &Evidence) -> Preemption {
    // Debugfs shows the model that is in use, in parentheses: `none voluntary (full)`. Root can change it
    // there while the kernel runs.
    if let Some(model) = evidence.debugfs.as_deref().and_then(in_parentheses).and_then(Preemption::from_name)
    {
        return model;
    }
    let has_flag = |flag: &str| evidence.version.split_whitespace().any(|word| word == flag);
    let built = built_model(evidence);
    if has_flag("PREEMPT_RT") {
        Preemption::RealTime
    } else if has_flag("PREEMPT_DYNAMIC") {
        let chosen = evidence.cmdline.as_deref().and_then(|cmdline| chosen_model(cmdline, evidence.release));
        match chosen.or(built) {
            Some(model) => model,
            None if evidence.release >= ONLY_PREEMPTIBLE => Preemption::LazyOrFull,
            None => Preemption::Unknown,
        }
    } else if has_flag("PREEMPT") {
        match built {
            Some(model) => model,
            None if evidence.release >= FIRST_LAZY => Preemption::LazyOrFull,
            None => Preemption::Full,
        }
    } else {
        built.unwrap_or(Preemption::NoneOrVoluntary)
    }
}

/// The first kernel with `PREEMPT_LAZY`.
const FIRST_LAZY: (u32, u32) = (6, 13);

/// The first kernel in which x86 and arm64 are always preemptible: it ignores `preempt=none` and
/// `preempt=voluntary`.
const ONLY_PREEMPTIBLE: (u32, u32) = (7, 0);

fn in_parentheses(text: &str) -> Option<&str> {
    Some(text.split_once('(')?.1.split_once(')')?.0)
}

/// The model that the kernel's command line chooses. The last valid `preempt=` counts.
fn chosen_model(cmdline: &str, release: (u32, u32)) -> Option<Preemption> {
    let is_valid = |model: &Preemption| match model {
        Preemption::Lazy => release >= FIRST_LAZY,
        Preemption::Full => true,
        _ => release < ONLY_PREEMPTIBLE,
    };
    let words = cmdline.split_whitespace().filter_map(|word| word.strip_prefix("preempt="));
    words.filter_map(Preemption::from_name).rfind(is_valid)
}

/// The model that the kernel was built with, which a kernel with `PREEMPT_DYNAMIC` uses by default.
fn built_model(evidence: &Evidence) -> Option<Preemption> {
    let config = evidence.config.as_deref()?;
    let options = [
        ("CONFIG_PREEMPT_NONE=y", Preemption::None),
        ("CONFIG_PREEMPT_VOLUNTARY=y", Preemption::Voluntary),
        ("CONFIG_PREEMPT_LAZY=y", Preemption::Lazy),
        ("CONFIG_PREEMPT=y", Preemption::Full),
    ];
    let is_set = |option: &str| config.lines().any(|line| line.trim_end() == option);
    options.into_iter().find(|(option, _)| is_set(option)).map(|(_, model)| model)
}

/// Whether the kernel counts the runs that it skips of programs attached through perf: it skips them on a CPU
/// while a task is preempted in a call of bpf(2) that changes a map (`bpf_disable_instrumentation`). By the
/// release, since the counting has no symbol (`trace_call_bpf`, since Linux 6.7); with `false` the caller
/// takes a program whose skipped runs every kernel counts.
#[must_use]
pub(crate) fn counts_skipped_perf_runs() -> bool {
    let name = rustix::system::uname();
    release(&name.release().to_string_lossy()).is_some_and(|release| release >= (6, 7))
}

/// Major and minor number of a kernel release.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Evidence, Preemption, decide, release};

    const DYNAMIC: &str = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)";
    const STATIC: &str = "#1 SMP Debian 5.10.0-1 (2026-07-02)";

    fn kernel(version: &str, release: (u32, u32)) -> Evidence {
        Evidence { version: version.to_owned(), release, ..Evidence::default() }
    }

    #[test]
    fn a_release_has_two_numbers() {
        assert_eq!(release("6.1.0-50-cloud-amd64"), Some((6, 1)));
        assert_eq!(release("7.3.4+deb13-cloud-amd64"), Some((7, 3)));
        assert_eq!(release("unknown"), None);
        assert!((6, 18) > (6, 7) && (6, 1) < (6, 7));
    }

    #[test]
    fn debugfs_is_believed_before_all_else() {
        for (text, model) in [
            ("none voluntary (full)\n", Preemption::Full),
            ("(none) voluntary full\n", Preemption::None),
            ("full (lazy)\n", Preemption::Lazy),
            // A later kernel's model that this agent does not know.
            ("full (eager)\n", Preemption::Unknown),
        ] {
            let evidence = Evidence { debugfs: Some(text.to_owned()), ..kernel(DYNAMIC, (6, 12)) };
            assert_eq!(decide(&evidence), model, "{text}");
        }
        let contradicted = Evidence {
            debugfs: Some("(none) voluntary full\n".to_owned()),
            cmdline: Some("preempt=full".to_owned()),
            ..kernel(DYNAMIC, (6, 12))
        };
        assert_eq!(decide(&contradicted), Preemption::None, "it was changed after the boot");
    }

    #[test]
    fn the_command_line_chooses_among_the_models_of_a_dynamic_kernel() {
        for (release, cmdline, model) in [
            ((6, 1), "quiet preempt=full panic=-1", Preemption::Full),
            ((6, 1), "preempt=full preempt=none", Preemption::None),
            ((6, 1), "preempt=lazy", Preemption::Voluntary),
            ((6, 1), "preempt=sometimes", Preemption::Voluntary),
            ((6, 1), "xpreempt=full", Preemption::Voluntary),
            ((6, 18), "preempt=lazy", Preemption::Lazy),
        ] {
            let evidence = Evidence {
                cmdline: Some(cmdline.to_owned()),
                config: Some("# CONFIG_PREEMPT is not set\nCONFIG_PREEMPT_VOLUNTARY=y\n".to_owned()),
                ..kernel(DYNAMIC, release)
            };
            assert_eq!(decide(&evidence), model, "{cmdline} on {release:?}");
        }
    }

    #[test]
    fn linux_7_ignores_a_choice_of_no_preemption() {
        let evidence = |config: Option<&str>| Evidence {
            cmdline: Some("preempt=none".to_owned()),
            config: config.map(str::to_owned),
            ..kernel(DYNAMIC, (7, 3))
        };
        assert_eq!(decide(&evidence(Some("CONFIG_PREEMPT_LAZY=y\n"))), Preemption::Lazy);
        assert_eq!(decide(&evidence(None)), Preemption::LazyOrFull);
    }

    #[test]
    fn without_the_configuration_a_model_is_not_guessed() {
        for (version, release, model) in [
            (DYNAMIC, (6, 1), Preemption::Unknown),
            (DYNAMIC, (7, 0), Preemption::LazyOrFull),
            (STATIC, (5, 10), Preemption::NoneOrVoluntary),
            ("#1 SMP PREEMPT Mon", (6, 1), Preemption::Full),
            ("#1 SMP PREEMPT Mon", (6, 13), Preemption::LazyOrFull),
            ("#1 SMP PREEMPT_RT Debian 6.1.1", (6, 1), Preemption::RealTime),
            ("", (0, 0), Preemption::NoneOrVoluntary),
        ] {
            assert_eq!(decide(&kernel(version, release)), model, "{version} {release:?}");
        }
    }

    #[test]
    fn options_whose_names_begin_alike_are_not_confused() {
        let config = "CONFIG_PREEMPT_BUILD=y\nCONFIG_ARCH_HAS_PREEMPT_LAZY=y\nCONFIG_PREEMPT_NONE=y\n\
                      # CONFIG_PREEMPT is not set\nCONFIG_PREEMPT_COUNT=y\nCONFIG_PREEMPT_DYNAMIC=y\n";
        let evidence = Evidence { config: Some(config.to_owned()), ..kernel(DYNAMIC, (6, 18)) };
        assert_eq!(decide(&evidence), Preemption::None);
    }

    #[test]
    fn only_where_no_task_is_preempted_in_a_program_none_is_skipped() {
        for model in [Preemption::None, Preemption::Voluntary, Preemption::NoneOrVoluntary] {
            assert!(!model.may_skip_programs(), "{model}");
        }
        for model in [
            Preemption::Lazy,
            Preemption::Full,
            Preemption::LazyOrFull,
            Preemption::RealTime,
            Preemption::Unknown,
        ] {
            assert!(model.may_skip_programs(), "{model}");
        }
    }
}
