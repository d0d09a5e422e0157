//! Audiences: conditions with a name, which may use each other.
//!
//! They are rules, not lists: whoever is asked at a decision is asked then. What they are made of is for [`condition`](crate::condition); that each is
//! evaluated at most once per decision, too.

use compact_str::CompactString;

use crate::condition::ConditionId;

/// Audiences within each other; evaluation goes as deep.
const NESTED_MAX: usize = 16;

/// A condition with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    /// Unique.
    pub name: CompactString,
    /// Who is of it.
    pub condition: ConditionId,
}

/// Audiences that cannot be evaluated, by position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudienceFault {
    /// Each uses the next, the last one the first.
    Cycle(Vec<usize>),
    /// Each uses the next, and they are too many.
    Deep(Vec<usize>),
}

impl AudienceFault {
    /// The audiences, each of which uses the next.
    pub fn chain(&self) -> &[usize] {
        match self {
            Self::Cycle(chain) | Self::Deep(chain) => chain,
        }
    }

    /// What is wrong and the mend, given their names.
    pub fn detail(&self, names: &[String]) -> String {
        let chain = names.join(" → ");
        match self {
            Self::Cycle(_) => format!("uses itself: {chain} → {}; break the circle", names[0]),
            Self::Deep(_) => {
                format!("more than {NESTED_MAX} audiences stand within each other: {chain}; write some out")
            }
        }
    }
}

/// Whether no audience hangs on itself, given for each those that it uses, and none too many within each other.
pub fn check(used: &[Vec<usize>]) -> Result<(), AudienceFault> {
    /// How many audiences stand within each one, itself included; none while it is looked at.
    #[derive(Clone, Copy)]
    enum Seen {
        No,
        Open,
        Deep(usize),
    }
    let mut seen = vec![Seen::No; used.len()];
    for start in 0..used.len() {
        // A path down, and for each of it the next one to look at: no recursion, whatever the document.
        let mut path = vec![(start, 0)];
        while let Some((at, next)) = path.last_mut() {
            let (at, position) = (*at, *next);
            *next += 1;
            if let Seen::Deep(_) = seen[at] {
                path.pop();
                continue;
            }
            seen[at] = Seen::Open;
            match used[at].get(position) {
                Some(inner) => match seen[*inner] {
                    Seen::Open => {
                        let from = path.iter().position(|(of, _)| of == inner).unwrap_or(0);
                        return Err(AudienceFault::Cycle(path[from..].iter().map(|(of, _)| *of).collect()));
                    }
                    Seen::No => path.push((*inner, 0)),
                    Seen::Deep(_) => {}
                },
                None => {
                    let deep = |inner: &usize| if let Seen::Deep(deep) = seen[*inner] { deep } else { 0 };
                    let deepest = 1 + used[at].iter().map(deep).max().unwrap_or(0);
                    if deepest > NESTED_MAX {
                        return Err(AudienceFault::Deep(chain(at, used, |inner| deep(&inner))));
                    }
                    seen[at] = Seen::Deep(deepest);
                    path.pop();
                }
            }
        }
    }
    Ok(())
}

/// The longest way down from an audience.
fn chain(from: usize, used: &[Vec<usize>], deep: impl Fn(usize) -> usize) -> Vec<usize> {
    let mut chain = vec![from];
    let mut at = from;
    while let Some(next) = used[at].iter().copied().max_by_key(|inner| deep(*inner)) {
        chain.push(next);
        at = next;
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_with_all_that_are_in_them() {
        assert_eq!(check(&[vec![1, 2], vec![2], vec![]]), Ok(()));
        assert_eq!(check(&[vec![0]]), Err(AudienceFault::Cycle(vec![0])));
        assert_eq!(check(&[vec![1], vec![2], vec![3], vec![1]]), Err(AudienceFault::Cycle(vec![1, 2, 3])));
    }

    #[test]
    fn depth_is_bounded_whatever_the_order() {
        let forward =
            |length: usize| (0..length).map(|at| if at + 1 < length { vec![at + 1] } else { vec![] }).collect();
        let backward = |length: usize| (0..length).map(|at| if at > 0 { vec![at - 1] } else { vec![] }).collect();
        let chains: [&dyn Fn(usize) -> Vec<Vec<usize>>; 2] = [&forward, &backward];
        for chain in chains {
            assert_eq!(check(&chain(NESTED_MAX)), Ok(()));
            let Err(AudienceFault::Deep(of)) = check(&chain(100_000)) else { panic!("that deep") };
            assert_eq!(of.len(), NESTED_MAX + 1);
        }
    }
}
