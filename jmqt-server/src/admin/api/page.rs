//! Pages of long lists.

use super::schema::Arguments;

/// The most entries of a list that has no pages.
pub(super) const MOST_ENTRIES: usize = 1000;
/// The entries of a page, unless a request asks for another number.
pub(super) const USUAL_PAGE: u64 = 100;

/// The page of a list that the arguments ask for, in order, and where the next one begins.
pub(super) fn page<T>(
    mut list: Vec<T>,
    arguments: &Arguments,
    name: impl Fn(&T) -> &str,
) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(arguments.integer("limit", USUAL_PAGE)).unwrap_or(usize::MAX);
    if let Some(after) = arguments.text("after") {
        list.retain(|entry| name(entry) > after);
    }
    let is_last = list.len() <= limit;
    if !is_last {
        // Without sorting what is on later pages.
        list.select_nth_unstable_by(limit, |one, other| name(one).cmp(name(other)));
        list.truncate(limit);
    }
    list.sort_unstable_by(|one, other| name(one).cmp(name(other)));
    let next = list.last().filter(|_| !is_last).map(|last| name(last).to_owned());
    (list, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::schema::{Field, Kind, optional, read_query};

    const FIELDS: &[Field] =
        &[optional("limit", Kind::Integer(1, 1000), "a"), optional("after", Kind::Text(9), "b")];

    fn paged(query: &str) -> (String, Option<String>) {
        let list: Vec<&str> = vec!["d", "a", "c", "b", "e"];
        let (page, next) = page(list, &read_query(query, FIELDS).unwrap(), |name| name);
        (page.concat(), next)
    }

    #[test]
    fn pages_are_in_order_and_say_where_the_next_one_begins() {
        assert_eq!(paged("limit=2"), ("ab".to_owned(), Some("b".to_owned())));
        assert_eq!(paged("limit=2&after=b"), ("cd".to_owned(), Some("d".to_owned())));
        assert_eq!(paged("limit=2&after=d"), ("e".to_owned(), None));
        assert_eq!(paged("limit=5"), ("abcde".to_owned(), None));
        assert_eq!(paged("after=x"), (String::new(), None));
    }
}
