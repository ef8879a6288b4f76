//! What a tier's command line asks for: to serve, or one of two things that an operator asks beside that.
//!
//! - `--check-config`: reads and checks the settings as a start would, binds nothing, and exits with 0, or with 64 and
//!   what is wrong.
//! - `healthcheck`: asks this machine's running process whether it lives ([`crate::healthcheck`]). So an image needs
//!   neither a shell nor `curl`.

use std::{ffi::OsString, net::SocketAddr, process::ExitCode};

use clap::{Arg, ArgAction, ArgMatches, Command, Parser};

use crate::{healthcheck, settings};

const CHECK_CONFIG: &str = "check-config";
const HEALTHCHECK: &str = "healthcheck";

/// What to do with the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Serve,
    CheckConfig,
    Healthcheck,
}

/// Parses flags and environment, and what is to be done. `Err` holds what to exit with, everything having been printed.
pub fn parse<T: Parser>() -> Result<(T, Task), ExitCode> {
    parse_from(std::env::args_os()).map_err(|error| settings::refused(&error))
}

impl Task {
    /// If it is this that was asked for: does it, and returns what to exit with. Needs no settings but the address.
    #[expect(clippy::print_stderr, reason = "this is its output; there is no log")]
    pub fn healthcheck(self, ops: SocketAddr) -> Result<(), ExitCode> {
        if self != Self::Healthcheck {
            return Ok(());
        }
        Err(match healthcheck::ask(ops) {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => {
                eprintln!("error: {reason}");
                ExitCode::FAILURE
            }
        })
    }

    /// The settings, which are good, unless to know that is all that was asked for.
    #[expect(clippy::print_stdout, reason = "this is its output; there is no log")]
    pub fn check<T>(self, settings: T) -> Result<T, ExitCode> {
        if self != Self::CheckConfig {
            return Ok(settings);
        }
        println!("the settings are good");
        Err(ExitCode::SUCCESS)
    }

    fn of(matches: &ArgMatches) -> Self {
        if matches.subcommand_matches(HEALTHCHECK).is_some() {
            Self::Healthcheck
        } else if matches.get_flag(CHECK_CONFIG) {
            Self::CheckConfig
        } else {
            Self::Serve
        }
    }
}

fn parse_from<T: Parser>(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<(T, Task), clap::Error> {
    let check = Arg::new(CHECK_CONFIG)
        .long(CHECK_CONFIG)
        .action(ArgAction::SetTrue)
        .help("Check the settings and exit: 0, or 64 and what is wrong");
    let healthcheck = Command::new(HEALTHCHECK)
        .about("Ask the process that serves OPS_LISTEN on this machine whether it lives, and exit: 0 or 1");
    let mut command = T::command().arg(check).subcommand(healthcheck).disable_help_subcommand(true);
    let matches = command.try_get_matches_from_mut(args)?;
    let settings = T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((settings, Task::of(&matches)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[arg(long, default_value = ":1", value_parser = settings::listen_address)]
        ops_listen: SocketAddr,
    }

    fn task(args: &[&str]) -> Result<(u16, Task), clap::Error> {
        let args = std::iter::once("tier").chain(args.iter().copied());
        parse_from::<Flags>(args).map(|(flags, task)| (flags.ops_listen.port(), task))
    }

    #[test]
    fn what_is_asked_for_stands_beside_the_settings() {
        assert_eq!(task(&[]).unwrap(), (1, Task::Serve));
        assert_eq!(task(&["--check-config", "--ops-listen=:2"]).unwrap(), (2, Task::CheckConfig));
        assert_eq!(task(&["--ops-listen=:3", "healthcheck"]).unwrap(), (3, Task::Healthcheck));
        for bad in [&["--ops-listen=x"][..], &["healthchek"], &["--check"]] {
            assert!(task(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_done() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
        for task in [Task::Serve, Task::CheckConfig] {
            assert!(task.healthcheck(nobody).is_ok());
        }
        assert!(Task::Healthcheck.healthcheck(nobody).is_err());
        assert_eq!(Task::Serve.check(7).ok(), Some(7));
        assert!(Task::CheckConfig.check(7).is_err());
    }
}
