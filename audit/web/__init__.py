"""The pages on which raters judge: from a local server, or as a static page. One front end, two back ends.

The order of the questions is the front end's (`templates/queue.js`): both back ends only keep answers. The server
appends them to the raters' files; the static page keeps them in the browser, and gives the same file to download.
"""
