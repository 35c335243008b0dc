use super::*;

fn end(after: &str, cursor: &str, delivery: u64) -> End {
    End { after: after.to_owned(), cursor: cursor.to_owned(), behind: 0, delivery: Some(delivery) }
}

#[test]
fn a_page_that_begins_elsewhere_leaves_the_cursor_where_it_is() {
    let mut feed = Feed::default();
    feed.reach(&end("", "a", 1), UnixMillis(1));
    feed.reach(&end("b", "c", 2), UnixMillis(2));
    assert_eq!((feed.cursor.as_str(), feed.current_ms), ("a", Some(1)));
    feed.reach(&End { behind: 5, ..end("a", "b", 3) }, UnixMillis(3));
    assert_eq!((feed.cursor.as_str(), feed.current_ms, feed.behind), ("b", Some(1), 5));
}

#[test]
fn deliveries_are_told_apart_in_whatever_order_they_come() {
    let mut feed = Feed::default();
    let mut come = Vec::new();
    for number in [1, 3, 2, 70, 69, 10, 400, 399, 337] {
        assert_eq!(feed.knows(number), Delivery::New, "{number}");
        feed.reach(&end("x", "y", number), UnixMillis(0));
        come.push(number);
        for known in 1..=number + 1 {
            let expected = match (number.max(feed.delivery).checked_sub(known), come.contains(&known)) {
                (Some(back), _) if back >= WINDOW => Delivery::TooOld,
                (_, true) => Delivery::Known,
                (_, false) => Delivery::New,
            };
            assert_eq!(feed.knows(known), expected, "{known} after {number}");
        }
    }
}
