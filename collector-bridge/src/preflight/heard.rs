//! Programs that are not only attached, but heard to run.

use super::{
    facts::{
        Canary, Facts, {self},
    },
    verdict::{Verdict, items},
};
use crate::bpf::{
    Capture, LoadError, Programs, Settings, Tier, offsets, {self},
};

/// Loads the programs, lets `listen` find out whether they run, and adds both to the facts. A tier 1 that is deaf gives way to
/// tier 2 where the configuration leaves the choice: a kernel can attach programs to functions and never run them
/// (`/proc/sys/kernel/ftrace_enabled`).
///
/// # Errors
/// See [`LoadError`].
pub fn load(
    facts: &mut Facts,
    settings: &Settings,
    listen: impl Fn(&mut Programs) -> Canary,
) -> Result<Programs, LoadError> {
    let offsets = offsets::resolve(&facts.btf.path)?;
    let mut programs = bpf::load(settings, &offsets)?;
    let canary = listen(&mut programs);
    note(facts, &programs.capture, canary);
    if settings.tier.is_none()
        && programs.capture.tier == Tier::One
        && let Some(because) = deafness(facts)
    {
        drop(programs);
        programs = bpf::load(&Settings { tier: Some(Tier::Two), ..settings.clone() }, &offsets)?;
        programs.capture.because = Some(because);
        let canary = listen(&mut programs);
        note(facts, &programs.capture, canary);
    }
    Ok(programs)
}

fn note(facts: &mut Facts, capture: &Capture, canary: Canary) {
    let Capture { tier, because, .. } = capture.clone();
    facts.capture = Some(facts::Capture { tier, because });
    facts.canary = Some(canary);
}

/// Why the programs are of no use although they are attached, if they are not.
fn deafness(facts: &Facts) -> Option<String> {
    let canary = items(facts).into_iter().find(|item| item.id == "canary")?;
    (canary.verdict == Verdict::Failed).then_some(format!("{}; {}", canary.because, canary.remedy))
}
