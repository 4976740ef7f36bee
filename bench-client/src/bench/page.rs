//! The result as a page that a browser opens from disk: everything is in it, and nothing is fetched.
#![forbid(unsafe_code)]

/// The page, which draws what stands in it as JSON.
const PAGE: &str = include_str!("page.html");
const PLACE: &str = "@DATA@";

/// The page of a result, which is JSON.
pub(super) fn page(json: &str) -> String {
    // `</` in a string of the result would end the script, and `<!--` would hide its end. Both read the same to JSON.
    PAGE.replacen(PLACE, &json.replace('<', "\\u003c"), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_result_can_end_the_script_that_holds_it() {
        let page = page("{\"a\":\"</script><!-- @DATA@\"}");
        assert!(page.contains("{\"a\":\"\\u003c/script>\\u003c!-- @DATA@\"}"));
        assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
    }

    #[test]
    fn the_page_asks_the_network_for_nothing() {
        for words in ["src=", "href=", "@import", "url(", "fetch(", "XMLHttpRequest", "import("] {
            assert!(!PAGE.contains(words), "{words}");
        }
        // A name of the standard for SVG, which is not fetched.
        assert_eq!(PAGE.matches("://").count(), PAGE.matches("http://www.w3.org/2000/svg").count());
        assert_eq!(PAGE.matches(PLACE).count(), 1);
    }
}
