//! The knee: the highest rate that a server keeps up with, and its load does, too. Pure: what is run at a rate is an argument.
#![forbid(unsafe_code)]

use anyhow::bail;

/// First it is looked for downwards, in steps of this …
const STEP: f64 = 0.75;
const STEPS_MAX: u32 = 12;
/// … then between the last two rates, which leaves so much unknown as a step's eighth root: 4 %.
const HALVINGS: u32 = 3;
/// A rate is refused when it did not hold so often: one pause of a machine is no bound of a server.
const TRIES: u32 = 2;
/// What a search takes, with the closed loop before it: about three steps, of which two do not hold, and the halvings.
pub(super) const RUNS_ABOUT: u32 = 10;

/// Searches below what the closed loop reached, which sends many messages at a time and so reaches more than any schedule. That is taken for
/// a rate that does not hold, without a try.
///
/// # Errors
/// A run could not be made, or no rate holds.
pub(super) fn search(reached: f64, holds: impl FnMut(f64) -> anyhow::Result<bool>) -> anyhow::Result<f64> {
    let mut holds = with_tries(holds);
    let (mut held, mut refused) = (reached * STEP, reached);
    let mut steps = 1;
    while !holds(held)? {
        if steps == STEPS_MAX {
            bail!("not even {held:.0} messages a second could be sent by a schedule here: this machine is too busy, or too slow");
        }
        (held, refused, steps) = (held * STEP, held, steps + 1);
    }
    for _ in 0..HALVINGS {
        let middle = (held * refused).sqrt();
        if holds(middle)? {
            held = middle;
        } else {
            refused = middle;
        }
    }
    Ok(held)
}

/// A rate holds if it does in the better of its tries.
fn with_tries(mut holds: impl FnMut(f64) -> anyhow::Result<bool>) -> impl FnMut(f64) -> anyhow::Result<bool> {
    move |rate| {
        for _ in 0..TRIES {
            if holds(rate)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REACHED: f64 = 100_000.0;
    /// Of rates that are tried, with the tries of each.
    const RUNS_MAX: usize = ((STEPS_MAX + HALVINGS) * TRIES) as usize;

    /// What is found of a server that keeps up with this rate, and the rates that were tried. Every run of those listed is disturbed.
    fn found(knee: f64, disturbed: &[usize]) -> (f64, Vec<f64>) {
        let mut tried = Vec::new();
        let holds = |rate| {
            tried.push(rate);
            Ok(rate <= knee && !disturbed.contains(&tried.len()))
        };
        let found = search(REACHED, holds).expect("some rate holds");
        (found, tried)
    }

    #[test]
    fn it_is_found_to_within_four_parts_in_a_hundred() {
        for knee in (5_000..=97_000).step_by(137).map(f64::from) {
            let (found, tried) = found(knee, &[]);
            assert!(found <= knee && found * 1.04 > knee.min(REACHED * 0.96), "{found} of {knee}");
            assert!(tried.contains(&found) && tried.len() <= RUNS_MAX, "{knee}: {tried:?}");
        }
    }

    #[test]
    fn one_disturbance_changes_nothing() {
        let (undisturbed, tried) = found(60_000.0, &[]);
        for disturbed in 1..=tried.len() {
            assert_eq!(found(60_000.0, &[disturbed]).0, undisturbed, "run {disturbed}");
        }
        // Both tries of a rate are more than one: the knee lies below it then.
        assert!(found(90_000.0, &[1, 2]).0 < 75_000.0);
    }

    #[test]
    fn a_search_ends() {
        let mut runs = 0;
        let none = search(REACHED, |_| {
            runs += 1;
            Ok(false)
        });
        assert!(none.expect_err("no rate holds").to_string().contains("this machine is too busy"));
        assert_eq!(runs, STEPS_MAX * TRIES);
        assert!(search(REACHED, |_| bail!("interrupted")).expect_err("it could not be run").to_string().contains("interrupted"));
    }
}
