//! Who a container image wants its program to be: `USER` of its configuration, looked up in the image's
//! own `/etc/passwd` and `/etc/group`.

/// A user, with groups and home directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User ID.
    pub user: u32,
    /// Group ID.
    pub group: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// An entry of passwd(5) or group(5): its fields, if it has at least `count`.
fn entries(file: &str, count: usize) -> impl Iterator<Item = Vec<&str>> {
    file.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .filter(move |fields| fields.len() >= count)
}

/// Resolves `USER` or `USER:GROUP`, each a name or a number; nothing is root.
///
/// # Errors
///
/// Says which name does not exist.
pub fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user_part, group_part) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let number = user_part.parse::<u32>().ok();
    // A name counts before a number: users can be named like numbers.
    let named = entries(passwd, 6).find(|fields| fields[0] == user_part);
    let entry = named.or_else(|| {
        entries(passwd, 6).find(|fields| number.is_some() && fields[2].parse().ok() == number)
    });
    let mut found = User { home: "/".to_owned(), ..User::default() };
    match entry {
        Some(fields) => {
            let invalid = || format!("/etc/passwd has no numbers for '{user_part}'");
            found.user = fields[2].parse().map_err(|_| invalid())?;
            found.group = fields[3].parse().map_err(|_| invalid())?;
            if !fields[5].is_empty() {
                found.home = fields[5].to_owned();
            }
            if group_part.is_none() {
                let name = fields[0];
                found.groups = entries(group, 4)
                    .filter(|fields| fields[3].split(',').any(|member| member == name))
                    .filter_map(|fields| fields[2].parse().ok())
                    .collect();
            }
        }
        None => {
            found.user =
                number.ok_or_else(|| format!("the user '{user_part}' is not in /etc/passwd"))?;
            if found.user == 0 {
                found.home = "/root".to_owned();
            }
        }
    }
    if let Some(name) = group_part {
        let entry = entries(group, 3).find(|fields| fields[0] == name);
        found.group = entry
            .and_then(|fields| fields[2].parse().ok())
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("the group '{name}' is not in /etc/group"))?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/srv:/bin/false\nbad:x:y:1::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:40:adm,web\nextra:x:41:web\n";

    fn user(user: u32, group: u32, groups: &[u32], home: &str) -> User {
        User { user, group, groups: groups.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn users_are_names_or_numbers() {
        let of = |wanted| resolve(wanted, PASSWD, GROUP);
        assert_eq!(of(""), Ok(user(0, 0, &[], "/root")));
        assert_eq!(of("web"), Ok(user(33, 34, &[40, 41], "/srv")));
        assert_eq!(of("33"), of("web"));
        assert_eq!(of("web:log"), Ok(user(33, 40, &[], "/srv")));
        assert_eq!(of("1000"), Ok(user(1000, 0, &[], "/")));
        assert_eq!(of("1000:77"), Ok(user(1000, 77, &[], "/")));
        assert!(of("nobody").unwrap_err().contains("'nobody'"));
        assert!(of("web:nogroup").unwrap_err().contains("'nogroup'"));
        assert!(of("bad").is_err());
        assert_eq!(resolve("", "", ""), Ok(user(0, 0, &[], "/root")));
    }
}
