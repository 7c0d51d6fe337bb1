//! `airlock run --rootfs`: a program in a root file system of the user's, instead of one made around it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use vmm::image::GuestPath;
use vmm::rootfs::{self, Defaults};
use vmm::{Identity, RootImage};

use super::Failure;
use super::options::RunOptions;
use super::run::{GUEST_PATH, set_variables};

/// What to run, and in what.
pub struct Guest {
    /// The root image.
    pub image: RootImage,
    /// A path in it, or a name to be looked for in `PATH` there.
    pub program: Vec<u8>,
    /// `argv`.
    pub arguments: Vec<Vec<u8>>,
    /// Environment.
    pub environment: Vec<Vec<u8>>,
    /// Working directory.
    pub directory: Vec<u8>,
    /// Who the program is.
    pub identity: Identity,
}

/// Opens the source, packing it if need be, and decides what to run in it: what the command line says, and
/// where it says nothing, what the source says.
pub fn configure(source: &Path, options: &mut RunOptions) -> Result<Guest, Failure> {
    if !options.file.is_empty() {
        return Err(Failure::new(
            "--file has no effect on the files of --rootfs: add them to the source instead",
        ));
    }
    let rootfs = rootfs::open(source)?;
    let Defaults { home, directory, user, group, groups, .. } = &rootfs.defaults;
    let home = if home.is_empty() { "/root" } else { home };
    let mut environment = vec![GUEST_PATH.to_vec(), format!("HOME={home}").into_bytes()];
    let terminal = options.terminal;
    let own = rootfs.defaults.environment.iter().filter(|variable| {
        variable.find('=').is_some_and(|length| length > 0) && !variable.contains('\0')
    });
    set_variables(&mut environment, own.map(OsString::from).collect(), false)?;
    set_variables(&mut environment, std::mem::take(&mut options.env), terminal)?;

    let given = std::mem::take(&mut options.command).into_iter().map(OsString::into_vec).collect();
    let arguments = command(&rootfs.defaults, given);
    let Some(program) = arguments.first().cloned() else {
        let source = source.display();
        return Err(Failure::new(format!("no program is given, and '{source}' names none")));
    };
    if program.is_empty() {
        return Err(Failure {
            status: super::NOT_FOUND,
            message: "the program's name is empty".to_owned(),
        });
    }
    let directory = match &options.workdir {
        Some(directory) => GuestPath::new(directory.as_encoded_bytes())?,
        None if directory.is_empty() => GuestPath::new(b"/")?,
        None => GuestPath::new(directory.as_bytes())?,
    };
    Ok(Guest {
        program,
        arguments,
        environment,
        directory: directory.as_bytes().to_vec(),
        identity: Identity { user: *user, group: *group, groups: groups.clone() },
        image: rootfs.image,
    })
}

/// The entry point with the arguments given, or with those of the image if none are.
fn command(defaults: &Defaults, given: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let bytes = |strings: &[String]| -> Vec<Vec<u8>> {
        strings.iter().map(|string| string.clone().into_bytes()).collect()
    };
    let mut command = bytes(&defaults.entrypoint);
    command.extend(if given.is_empty() { bytes(&defaults.command) } else { given });
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_replace_those_of_the_image_but_not_its_entry_point() {
        let strings = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let of = |entrypoint: &str, command_: &str, given: &str| {
            let defaults = Defaults {
                entrypoint: strings(entrypoint),
                command: strings(command_),
                ..Defaults::default()
            };
            let given = strings(given).into_iter().map(String::into_bytes).collect();
            String::from_utf8(command(&defaults, given).join(b" ".as_slice())).unwrap()
        };
        assert_eq!(of("", "sh -l", ""), "sh -l");
        assert_eq!(of("", "sh -l", "ls /"), "ls /");
        assert_eq!(of("tini --", "sh", ""), "tini -- sh");
        assert_eq!(of("tini --", "sh", "ls /"), "tini -- ls /");
        assert_eq!(of("", "", ""), "");
    }
}
